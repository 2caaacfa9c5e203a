"""The API shows what is known of the provider's side of each account."""

from __future__ import annotations

from tests.conftest import Start
from tests.helpers.operator import ANN, Connection, Operator
from tests.helpers.provider_rows import store_account, store_days, store_history, store_tests


async def test_the_accounts_are_listed_with_their_last_day(start: Start, connection: Connection) -> None:
    ann = Operator((await start(admin_tokens=ANN)).admin_url)
    assert await ann.get("provider/accounts") == (200, {"accounts": []})
    await store_account(connection)
    await store_account(connection, "eu", held_until="'-infinity'", webhook_state="'inactive'")
    await store_days(connection)
    status, found = await ann.get("provider/accounts")
    assert status == 200
    default, eu = found["accounts"]
    assert (default["account"], default["held"], default["days_not_whole"]) == ("default", True, 3)
    assert (default["last_day"]["completeness"], default["last_day"]["recovered"]) == ("whole", 3)
    assert (eu["account"], eu["held"], eu["webhook_state"], eu["last_day"]) == ("eu", False, "inactive", None)


async def test_one_account_is_shown_with_its_calls_changes_and_tests(start: Start, connection: Connection) -> None:
    ann = Operator((await start(admin_tokens=ANN)).admin_url)
    await store_account(connection)
    await store_history(connection)
    await store_history(connection, "eu")
    status, found = await ann.get("provider/accounts/default")
    assert status == 200
    assert [call["name"] for call in found["calls"]] == ["webhooks", "notifications"]
    assert [change["actor"] for change in found["changes"]] == ["guardian"]
    assert [test["key_fingerprint"] for test in found["tests"]] == ["0123456789ab"]
    assert found["tests_in_a_week"] == 1
    assert [one["reason"] for one in found["unreadable"]] == ["the answer has no payload"]
    assert (await ann.get("provider/accounts/nobody"))[0] == 404
    assert (await ann.get("provider/accounts/No%20Body"))[0] == 422
    await store_tests(connection, count=30)  # as in test mode
    a_row = "WHERE id = (SELECT id FROM provider_tests WHERE account = 'default' AND body IS NULL ORDER BY received_at LIMIT 1)"
    await connection.execute(f"UPDATE provider_tests SET body = '{{}}' {a_row}")  # held: perhaps a real one
    await connection.execute(f"UPDATE provider_tests SET received_at = now() - interval '8 days' {a_row}")
    _, found = await ann.get("provider/accounts/default")
    assert (found["tests_in_a_week"], len(found["tests"])) == (29, 20)


async def test_the_days_of_an_account_are_listed_back_to_a_day(start: Start, connection: Connection) -> None:
    ann = Operator((await start(admin_tokens=ANN)).admin_url)
    await store_account(connection)
    await store_days(connection)
    status, found = await ann.get("provider/accounts/default/days")
    assert status == 200
    assert [day["completeness"] for day in found["days"]] == ["open", "whole", "missing", "not known", "unreadable"]
    assert found["days"][1]["day"] == str(await connection.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date - 1"))
    _, found = await ann.get("provider/accounts/default/days", days=2)
    assert [day["listed"] for day in found["days"]] == [2, 4812]
    assert (await ann.get("provider/accounts/default/days", days=0))[0] == 422
    assert (await ann.get("provider/accounts/nobody/days"))[0] == 404


async def test_a_day_without_a_result_and_one_that_stays_open_are_not_whole(start: Start, connection: Connection) -> None:
    ann = Operator((await start(admin_tokens=ANN)).admin_url)
    await store_account(connection)
    await store_days(connection, days=dict.fromkeys((1, 2, 5), ("whole", 1, 1, 0, 0, 0)) | {4: ("open", 1, 1, 0, 0, 0)})
    _, found = await ann.get("provider/accounts/default")
    assert found["days_not_whole"] == 2
    assert found["first_day"] == str(await connection.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date - 5"))


async def test_an_account_that_nobody_asks_for_or_compares_is_shown_as_such(start: Start, connection: Connection) -> None:
    ann = Operator((await start(admin_tokens=ANN)).admin_url)
    await store_account(connection, "well")
    await store_account(connection, "left", held_until="now() - interval '2 minutes'")
    await store_account(connection, "late", compared_at="now() - interval '121 minutes'")
    await store_account(connection, "renewed", compared_at="now() - interval '9 hours'", credentials_since="now()")
    await store_account(connection, "removed", held_until="now() - interval '73 hours'", compared_at="NULL")
    _, found = await ann.get("provider/accounts")
    assert {one["account"] for one in found["accounts"] if one["unattended"]} == {"left"}
    assert {one["account"] for one in found["accounts"] if one["uncompared"]} == {"late", "removed"}
