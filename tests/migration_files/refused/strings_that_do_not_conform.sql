-- refused: line 2: standard_conforming_strings
SET standard_conforming_strings = off;
select 'a\'; b';
