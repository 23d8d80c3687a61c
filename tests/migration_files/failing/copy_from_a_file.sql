copy audit (what) from '/etc/hostname';
