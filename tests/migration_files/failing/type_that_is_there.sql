create type order_kind as enum ('a');
