create table undone (id int);
/* Rollback:
-- drop table undone;
*/
/* rollback: */
