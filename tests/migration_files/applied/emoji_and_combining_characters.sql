insert into audit (what) values ('🎉🎊 é e᷀́ 👩‍👩‍👧'), (U&'\+01F600');
