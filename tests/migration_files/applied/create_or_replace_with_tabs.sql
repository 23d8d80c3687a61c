	create	or
	replace	function	tabbed()	returns	int
	begin	atomic
		select	1;
	end;
create table	tabbed_result	as	select	tabbed();
