"""Who is in the way of a lock is named, also a transaction that is prepared and belongs to no session."""

from __future__ import annotations

from local_supabase import Cluster
from rpc_migrations.journal import describe_holders
from step_runner import calls, deploy, rebuild_file


def test_a_prepared_transaction() -> None:
    """It stays until somebody ends it, so it is no use to say that it has ended."""
    with Cluster(max_prepared_transactions="2") as cluster:
        database = cluster.create_database()
        with database.connect() as admin, database.connect() as other:
            deploy(admin)
            admin.execute("create table public.things (id integer primary key)")
            other.execute("begin; insert into public.things values (1); prepare transaction 'shop 7'")
            text = rebuild_file("things", "id integer not null")
            waiting = next(call for call in calls(admin, text) if call.answer["state"] == "waiting")
            told = describe_holders(waiting.answer["holders"])
            assert told.startswith(
                "prepared transaction 'shop 7', until COMMIT PREPARED or ROLLBACK PREPARED (role postgres"
            )
            assert "on things" in told or "on public.things" in told
            admin.execute("commit prepared 'shop 7'")
            done = [call.step for call in calls(admin, text) if call.answer["state"] == "done"]
            assert done[-1] == "validate"
