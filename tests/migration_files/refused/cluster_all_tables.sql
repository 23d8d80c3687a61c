-- refused: line 2: cluster
cluster;
