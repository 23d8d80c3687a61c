-- This migration was replaced by the next one.
/* create table nothing (id int);
   /* nested; */ ; */
