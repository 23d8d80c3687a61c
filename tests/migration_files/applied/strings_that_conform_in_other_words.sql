set standard_conforming_strings = yes;
set standard_conforming_strings to 1;
insert into audit (what) values ('a\b');
