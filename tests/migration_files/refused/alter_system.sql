-- refused: line 2: alter system
alter system set work_mem = '64MB';
