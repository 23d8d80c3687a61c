create table boxes (
    w numeric not null, h numeric not null,
    area numeric generated always as (w * h) stored
);
insert into boxes values (2, 3), (4, 5);
