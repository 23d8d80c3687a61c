prepare add_audit (text) as insert into audit (what) values ($1);
execute add_audit('prepared;');
deallocate add_audit;
