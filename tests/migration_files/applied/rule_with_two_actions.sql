create view audit_view as select what from audit;
create rule audit_insert as on insert to audit_view do instead (
    insert into audit (what) values (new.what);
    insert into audit (what) values (new.what || ' again');
);
insert into audit_view values ('ruled');
