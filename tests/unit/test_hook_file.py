"""What a pipeline file may say of hooks: each mistake is one sentence with file, key and fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.exits import HookSetupError
from app.hooks.targets import read_targets
from schemas.pipeline.file import load
from schemas.pipeline.spec import Destinations, Hook, Pipeline, PipelineError

HEAD = """
name = "shop"
publish_features = true

[events]
entity = "customer"
id = "order"
time = "at_ms"

[events.fields]
order = "string"
customer = "string"
at_ms = "int"
amount = "float"

[[features]]
name = "amount"
type = "float"
expression = "amount"
"""
PLACES = """
[destinations]
hosts = ["crm.example.com", "*.slack.com"]
"""
CRM = """
[[hooks]]
name = "crm"
on = "scores"
where = "score >= 0.9 and amount > 100 and version != '1.0.0'"
url = "https://crm.example.com/leads"
secrets = ["CRM_SECRET"]
"""
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105  # of the standard's own tests


def read(tmp_path: Path, text: str) -> Pipeline:
    path = tmp_path / "shop.toml"
    path.write_text(text)
    return load(path)


def test_hooks_are_read_as_they_are_written(tmp_path: Path) -> None:
    more = """
[[hooks]]
name = "chat"
on = "alerts"
form = "slack"
url_from = "SLACK_URL"

[[hooks]]
name = "lake"
on = "verdicts"
form = "kafka"
topic = "all-verdicts"
"""
    pipeline = read(tmp_path, HEAD + PLACES + CRM + more)

    assert pipeline.hooks == (
        Hook(
            "crm",
            "scores",
            "webhook",
            "score >= 0.9 and amount > 100 and version != '1.0.0'",
            "https://crm.example.com/leads",
            secrets=("CRM_SECRET",),
        ),
        Hook("chat", "alerts", "slack", url_from="SLACK_URL"),
        Hook("lake", "verdicts", "kafka", topic="all-verdicts"),
    )
    assert pipeline.destinations == Destinations(("crm.example.com", "*.slack.com"))


def test_hooks_bring_their_topics_and_leave_the_digest_as_it_was(tmp_path: Path) -> None:
    with_hooks, without = read(tmp_path, HEAD + PLACES + CRM), read(tmp_path, HEAD)

    names = {topic.name for topic in with_hooks.topics.all()} - {topic.name for topic in without.topics.all()}

    assert names == {"shop.hooks-retry", "shop.hooks-dead", "shop.hooks-state"}
    assert with_hooks.digest == without.digest


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('name = "crm"', 'name = "C R M"', 'hooks.C R M.name: "C R M" cannot be part of an id; use a-z, 0-9'),
        ('name = "crm"', "", "hooks[1].name: is missing; give a string, for example name"),
        ('on = "scores"', 'on = "labels"', 'hooks.crm.on: "labels" is not known; use "scores", "alerts"'),
        ('on = "scores"', 'on = "alerts"', "hooks.crm.where: is for scores, and this hook is on alerts; remove it"),
        ("score >= 0.9", "scor >= 0.9", 'there is no field, lookup column or feature "scor"; did you mean "score"?'),
        ("score >= 0.9 and", "version or", "this is text where a number is needed"),
        ('url = "https://crm.example.com/leads"', "", "hooks.crm.url: give either url, or url_from"),
        ("https://crm", "http://crm", "hooks.crm.url: is not encrypted; use https, or allow it by plain_http = true"),
        ("https://crm.example", "https://crn.example", 'add "crn.example.com" to hosts in [destinations].'),
        ("https://crm", "https://ann:pw@crm", "hooks.crm.url: has a user, a password or a fragment"),
        ("https://crm", "ftp://crm", "hooks.crm.url: is no URL; write for example https://crm.example.com/hook"),
        ("crm.example.com/leads", "crm.example.com:port/", "hooks.crm.url: is no URL"),
        ('["CRM_SECRET"]', "[]", "hooks.crm.secrets: names no environment variable"),
        ('["CRM_SECRET"]', '["A", "B", "C"]', "hooks.crm.secrets: names 3; at most two"),
        ('["CRM_SECRET"]', f'["{SECRET}="]', "hooks.crm.secrets: must name environment variables"),
        ('secrets = ["CRM_SECRET"]', 'topic = "x"', "hooks.crm.topic: unknown key; use one of"),
        (
            '"crm.example.com", ',
            '"https://crm.example.com", ',
            'destinations.hosts: "https://crm.example.com" is no host',
        ),
        ("[destinations]", '[destinations]\nnetworks = ["10.0.0.1/8"]', 'networks: "10.0.0.1/8" is no network'),
        ("[destinations]", '[destinations]\nca = "none.pem"', "destinations.ca: there is no file"),
        ("[destinations]", "[destinations]\nredirects = true", "destinations.redirects: unknown key"),
    ],
)
def test_each_mistake_is_one_sentence_with_file_key_and_fix(old: str, new: str, sentence: str, tmp_path: Path) -> None:
    text = PLACES + CRM
    assert old in text

    with pytest.raises(PipelineError) as error:
        read(tmp_path, HEAD + text.replace(old, new))

    said = str(error.value)
    assert sentence in said
    assert said.startswith(str(tmp_path / "shop.toml"))
    assert "\n" not in said
    assert SECRET not in said


@pytest.mark.parametrize(
    ("topic", "sentence"), [("shop.scores", "is one of the pipeline's own"), ("a b", "is no name of a topic")]
)
def test_a_hook_to_kafka_goes_to_no_topic_of_the_pipeline(topic: str, sentence: str, tmp_path: Path) -> None:
    hook = f'[[hooks]]\nname = "lake"\non = "scores"\nform = "kafka"\ntopic = "{topic}"\n'
    with pytest.raises(PipelineError, match=sentence):
        read(tmp_path, HEAD + hook)


def test_two_hooks_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match='"crm" is used by two hooks; rename one'):
        read(tmp_path, HEAD + PLACES + CRM + CRM)


def test_a_filter_may_not_name_features_that_are_not_served(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="publish_features = false: no features are served"):
        read(tmp_path, HEAD.replace("publish_features = true", "publish_features = false") + PLACES + CRM)


# -- what the environment says -----------------------------------------------------------------------------------------


def test_both_secrets_sign_while_one_replaces_the_other(tmp_path: Path) -> None:
    pipeline = read(tmp_path, HEAD + PLACES + CRM.replace('["CRM_SECRET"]', '["CRM_SECRET", "CRM_NEXT"]'))
    other = "whsec_" + "QUJD" * 10

    assert len(read_targets(pipeline, {"CRM_SECRET": SECRET})["crm"].keys) == 1
    assert read_targets(pipeline, {"CRM_SECRET": SECRET, "CRM_NEXT": other})["crm"].keys[1] == b"ABC" * 10
    assert read_targets(pipeline, {"CRM_NEXT": other})["crm"].keys == (b"ABC" * 10,)


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({}, "none of the environment variables CRM_SECRET is set; set one to the secret"),
        ({"CRM_SECRET": "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}, "CRM_SECRET does not begin with whsec_; put whsec_"),
        ({"CRM_SECRET": "whsec_MfKQ!9r8"}, "CRM_SECRET is not base64 after whsec_; copy it anew"),
        ({"CRM_SECRET": "whsec_QUJD"}, "CRM_SECRET holds 3 bytes; make one of 24 to 64 random bytes"),
    ],
)
def test_a_secret_that_cannot_sign_is_told_in_one_sentence_that_does_not_hold_it(
    environment: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    pipeline = read(tmp_path, HEAD + PLACES + CRM)

    with pytest.raises(HookSetupError) as error:
        read_targets(pipeline, environment)

    assert sentence in str(error.value)
    assert error.value.exit_code == 78
    assert all(secret not in str(error.value) for secret in environment.values())


def test_a_url_in_the_environment_is_checked_as_one_in_the_file_and_not_repeated(tmp_path: Path) -> None:
    hook = '[[hooks]]\nname = "chat"\non = "alerts"\nform = "slack"\nurl_from = "CHAT_URL"\n'
    pipeline = read(tmp_path, HEAD + PLACES + hook)
    url = "https://hooks.slack.com/services/T0/B0/canary"

    target = read_targets(pipeline, {"CHAT_URL": url})["chat"]

    assert target.url.reveal() == url
    assert "canary" not in repr(target)
    with pytest.raises(HookSetupError, match="the environment variable CHAT_URL is not set"):
        read_targets(pipeline, {})
    with pytest.raises(
        HookSetupError, match=r'chat.url_from: goes to a host that is not allowed; add "hooks.slack.co"'
    ):
        read_targets(pipeline, {"CHAT_URL": url.replace(".com", ".co")})
