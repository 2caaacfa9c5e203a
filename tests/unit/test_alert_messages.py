"""Messages about alerts have the forms that their channels document, and hold no secret; settings of channels are checked."""

from __future__ import annotations

import base64
import hashlib
import hmac
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.helpers.channels import SECRET, TOKEN
from tests.helpers.secrets import note
from webhookd.alerts.catalogue import CONDITIONS
from webhookd.alerts.channel import Channel
from webhookd.alerts.message import FIRES, FORMS, RESOLVED, Message, body, mail, signed
from webhookd.errors import SettingsError
from webhookd.settings import Settings, load
from webhookd.settings.alerts import AlertSettings

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
ID = uuid.UUID("01890a5d-ac96-774b-bcce-b302099a8057")
NEEDED = {"database_url": "postgresql://x", "redis_url": "redis://x", "signature_keys": "0" * 128}


def message(
    change: str = FIRES, dashboard: str = "https://ops.example.com", detail: str = "Events: 3 <of> 4 & more."
) -> Message:
    return Message(ID, change, "dead_events", "eu", detail, AT, dashboard)


def sent(form: str, **given: str) -> Any:
    return orjson.loads(body(message(**given), form))


def test_a_message_for_slack_is_a_text_with_the_three_escapes_that_slack_documents() -> None:
    # https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks: {"text": "…"}
    # https://docs.slack.dev/messaging/formatting-message-text: & < > become &amp; &lt; &gt;
    found = sent("slack")
    assert set(found) == {"text", "unfurl_links"}
    assert found["text"].splitlines() == [
        "webhookd: ticket: Events are dead (eu)",
        "Events: 3 &lt;of&gt; 4 &amp; more.",
        "What to do: https://ops.example.com/guide/runbook-dead#webhookddeadevents",
        "Dashboard: https://ops.example.com/#/dead-letters",
    ]


def test_a_message_for_discord_fits_its_limit_and_notifies_nobody() -> None:
    # https://discord.com/developers/docs/resources/webhook#execute-webhook: content up to 2000 characters; allowed_mentions
    found = sent("discord", detail="@everyone " * 1000)
    assert len(found["content"]) <= 2000
    assert found["allowed_mentions"] == {"parse": []}


def test_a_message_for_teams_is_an_adaptive_card_in_an_attachment() -> None:
    # https://learn.microsoft.com/en-us/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using
    found = sent("teams")
    assert found["type"] == "message"
    (attachment,) = found["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card = attachment["content"]
    assert card["type"] == "AdaptiveCard"
    assert [block["text"] for block in card["body"]] == ["webhookd: ticket: Events are dead (eu)", "Events: 3 <of> 4 & more."]
    assert [action["type"] for action in card["actions"]] == ["Action.OpenUrl"] * 2
    # A button needs a whole address; without one, the path of the guide is a text.
    card = sent("teams", dashboard="")["attachments"][0]["content"]
    assert card["actions"] == []
    assert card["body"][2]["text"] == "What to do: /guide/runbook-dead#webhookddeadevents"


def test_a_signed_post_verifies_as_standard_webhooks_documents() -> None:
    # https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    raw = body(message(RESOLVED), "json")
    header = signed(message(RESOLVED), raw, SECRET, now=1_674_087_231)
    assert header["webhook-id"] == str(ID)
    assert header["webhook-timestamp"] == "1674087231"
    version, _, signature = header["webhook-signature"].partition(",")
    assert version == "v1"
    content = b".".join((str(ID).encode(), b"1674087231", raw))
    assert base64.b64decode(signature) == hmac.digest(bytes(range(100, 132)), content, hashlib.sha256)
    assert orjson.loads(raw)["type"] == "webhookd.alert.resolved"
    assert orjson.loads(raw)["data"]["condition"] == "dead_events"


def test_the_example_of_standard_webhooks_has_its_signature() -> None:
    # The vector of the reference libraries: webhook-id, webhook-timestamp, body and secret with their known signature.
    key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    example = Message(ID, FIRES, "dead_events", "", "", AT)
    content = b'{"test": 2432232314}'

    class Known:
        id = "msg_p5jXN8AQM9LWM0D4loKWxJek"

    header = signed(Known(), content, key, now=1_614_265_330)  # type: ignore[arg-type]
    assert header["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signed(example, content, key, now=1)["webhook-signature"] != header["webhook-signature"]


def test_a_mail_keeps_its_id_and_stops_automatic_answers() -> None:
    one, two = (mail(message(), sender="webhookd@example.com", recipients=("a@example.com", "b@example.com")) for _ in "ab")
    assert one["Message-ID"] == two["Message-ID"] == f"<{ID}@example.com>"
    assert one["Auto-Submitted"] == "auto-generated"
    assert one["To"] == "a@example.com, b@example.com"
    assert one["Subject"] == "webhookd: ticket: Events are dead (eu)"


@pytest.mark.parametrize("name", CONDITIONS)
def test_every_condition_can_be_told_in_every_form(name: str) -> None:
    for change in (FIRES, RESOLVED):
        told = Message(ID, change, name, "", "A detail.", AT, "https://ops.example.com")
        for form in FORMS:
            assert CONDITIONS[name].guide in body(told, form).decode()
        assert CONDITIONS[name].summary in mail(told, sender="a@b.example", recipients=("c@d.example",)).as_string()


@pytest.mark.parametrize(
    ("url", "form"),
    [
        ("https://hooks.slack.com/services/T/B/x", "slack"),
        ("https://discord.com/api/webhooks/1/x", "discord"),
        ("https://example.webhook.office.com/webhookb2/x", "teams"),
        ("https://prod-1.westeurope.logic.azure.com:443/workflows/x", "teams"),
        ("https://evil-hooks.slack.com.example.com/x", "json"),
        ("https://10.0.0.7/alerts", "json"),
        ("smtps://u:p@mail.example.com", "email"),
    ],
)
def test_the_host_of_the_address_decides_the_format(url: str, form: str) -> None:
    assert AlertSettings(url=url, secret=SECRET).form == form  # type: ignore[arg-type]


def problems(**alerts: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(**NEEDED, alerts=alerts)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"url": "https://10.0.0.7/a"}, "WEBHOOKD_ALERTS__OPS__SECRET is not set"),
        ({"url": "smtp://mail.example.com"}, "WEBHOOKD_ALERTS__OPS__SENDER and WEBHOOKD_ALERTS__OPS__RECIPIENTS"),
        ({"url": f"ftp://{TOKEN}"}, "WEBHOOKD_ALERTS__OPS__URL: must be a whole address"),
        ({"url": f"https://[{TOKEN}"}, "WEBHOOKD_ALERTS__OPS__URL: must be a whole address"),
        ({"format": "slack"}, "WEBHOOKD_ALERTS__OPS__URL is not set"),
        ({"url": "https://a.b/c", "format": "slak"}, "WEBHOOKD_ALERTS__OPS__FORMAT: must be slack, teams, discord or json;"),
        (
            {"url": f"http://chat.example.com/{TOKEN}", "format": "slack"},
            "WEBHOOKD_ALERTS__OPS__URL: the address holds a token",
        ),
        ({"url": "https://a.b/c", "secret": f"whsec_{TOKEN}"}, "WEBHOOKD_ALERTS__OPS__SECRET: must be whsec_"),
        (
            {"url": "https://a.b/c", "secret": SECRET, "quiet_hours": "22-7"},
            "WEBHOOKD_ALERTS__OPS__QUIET_HOURS: must be two times",
        ),
        (
            {"url": "https://a.b/c", "secret": SECRET, "quiet_hours": "22:00-07:00 Nowhere/X"},
            "must be two times and a time zone",
        ),
        (
            {"url": "smtp://h", "sender": "a@b", "recipients": "x\r\nBcc: y@z"},
            "WEBHOOKD_ALERTS__OPS__RECIPIENTS: must be e-mail",
        ),
    ],
)
def test_a_channel_that_cannot_work_is_refused_with_the_setting_and_the_remedy(given: dict[str, str], said: str) -> None:
    note([TOKEN])
    lines = problems(OPS=given)
    assert any(said in line for line in lines), lines
    assert TOKEN not in "\n".join(lines)


def test_a_channel_comes_from_the_environment_a_file_and_toml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "url").write_text(f"https://hooks.slack.com/services/{TOKEN}\n")
    (tmp_path / "c.toml").write_text(
        '[alerts.mail]\nurl = "smtps://u:p@mail.example.com"\nsender = "a@example.com"\nrecipients = ["b@example.com"]\n'
    )
    given = {
        "WEBHOOKD_CONFIG": str(tmp_path / "c.toml"),
        "WEBHOOKD_ALERTS__OPS__URL_FILE": str(tmp_path / "url"),
        "WEBHOOKD_ALERTS__OPS__QUIET_HOURS": "22:00-07:00 Europe/Berlin",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = load(**NEEDED)
    assert settings.alerts["ops"].url.get_secret_value() == f"https://hooks.slack.com/services/{TOKEN}"
    assert settings.alerts["mail"].recipients == ("b@example.com",)
    assert settings.redacted()["alerts"] == {"ops": "slack", "mail": "email"}


@pytest.mark.parametrize("name", ["ALERTS__OPS__URI", "ALERTS__OPS__FORMAT_FILE", "ALERTS__URL"])
def test_a_slip_in_a_channels_setting_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"WEBHOOKD_{name}", "slack")
    with pytest.raises(SettingsError, match=rf"WEBHOOKD_{name} is not a setting; did you mean WEBHOOKD_ALERTS__<NAME>__"):
        load(**NEEDED)


def channels(quiet_hours: str) -> Channel:
    return Channel.of("ops", settings_with(quiet_hours).alerts["ops"])


def settings_with(quiet_hours: str) -> Settings:
    return load(**NEEDED, alerts={"ops": {"url": "https://hooks.slack.com/x", "quiet_hours": quiet_hours}})


@pytest.mark.parametrize(
    ("quiet", "hour", "is_quiet"),
    [
        ("22:00-07:00", 23, True),
        ("22:00-07:00", 6, True),
        ("22:00-07:00", 7, False),
        ("22:00-07:00", 12, False),
        ("12:00-13:00", 12, True),
        ("12:00-13:00", 13, False),
        ("22:00-07:00 America/New_York", 11, True),  # 6 o'clock in New York
        ("22:00-07:00 America/New_York", 12, False),
    ],
)
def test_quiet_hours_go_over_midnight_and_have_a_time_zone(quiet: str, hour: int, is_quiet: bool) -> None:
    assert channels(quiet).is_quiet(datetime(2026, 2, 1, hour, tzinfo=UTC)) is is_quiet


def test_no_text_of_a_channel_shows_its_address_or_secret() -> None:
    settings = load(**NEEDED, alerts={"ops": {"url": f"https://10.0.0.7/{TOKEN}", "secret": SECRET}})
    channel = Channel.of("ops", settings.alerts["ops"])
    shown = f"{channel!r} {channel} {settings!r} {settings.redacted()} {settings.alerts!r} {settings.model_dump_json()}"
    assert TOKEN not in shown
    assert SECRET not in shown
