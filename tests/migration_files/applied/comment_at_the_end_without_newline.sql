create table t (id int);
-- the end
