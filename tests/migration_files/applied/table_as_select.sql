create table numbers as select n, n * n as square from generate_series(1, 10) as n;
create table big_numbers as table numbers;
create table if not exists numbers as select 'not made again';
