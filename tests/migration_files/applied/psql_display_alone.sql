  \echo nothing to run; it is done by hand
