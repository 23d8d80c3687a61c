create table odd (s text);
insert into odd values ('u2028  u2029   nel  nbsp   ff  zwj ‍ rtl ‮ bom ﻿');
