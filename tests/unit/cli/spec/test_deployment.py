"""Deployment files: what they mean on the wire, and what a wrong one is told."""

import json
from typing import Any

import pytest

from muster.cli.spec.deployment import Reading, read_deployment

REST = "name: n\nimage: i\ncmd: c\n"
"""The three fields without which a file is not complete; what a test is about comes in line 4."""


def read(source: str, **environ: str) -> Reading:
    return read_deployment(source, environ)


def template(source: str, **environ: str) -> Any:
    """Return what line 4 of a file adds to the container template."""
    reading = read(REST + source, **environ)
    assert reading.problems == ()
    known = {"image_uuid": "i", "cmd": "c", "gpu_name_set": [], "gpu_num": 1}
    return {key: each for key, each in reading.body["container_template"].items() if known.get(key) != each}


def told(source: str, **environ: str) -> list[str]:
    return [problem.at("f.yml") for problem in read(source, **environ).problems]


def test_a_whole_file_becomes_the_body_that_autodl_documents() -> None:
    reading = read(
        """
name: digits
type: replicaset
replicas: 3
image: base-image-10ca10ca10ca
cmd: |
  cd /root
  python serve.py
cmd_before_shutdown: sync
gpu: RTX 4090:2
cpu: 4..64
memory: 24GB..
cuda: 11.8..12.8
price: ..3.5
data_centers: [lab-a, lab-b]
env: {MODE: yes, VERSION: 1.10, TOKEN: }
ports: {6006: http, 6008: tcp}
reuse: deployment
service:
  concurrency: 8
  drain: 30s
  health_check: {path: /healthz, interval: 500ms}
""",
        TOKEN="sesame",
    )
    assert reading.problems == ()
    assert reading.body == {
        "name": "digits",
        "deployment_type": "ReplicaSet",
        "replica_num": 3,
        "reuse_container": True,
        "reuse_container_scope": "deployment",
        "service_6006_port_protocol": "http",
        "service_6008_port_protocol": "tcp",
        "service": {
            "concurrency": 8,
            "drain_seconds": 30.0,
            "health_check": {
                "port": 6006,
                "path": "/healthz",
                "interval_seconds": 0.5,
                "timeout_seconds": 2.0,
                "unhealthy_after": 3,
                "stalled_after_seconds": 600.0,
            },
        },
        "container_template": {
            "image_uuid": "base-image-10ca10ca10ca",
            "cmd": "cd /root\npython serve.py\n",
            "cmd_before_shutdown": "sync",
            "gpu_name_set": ["RTX 4090"],
            "gpu_num": 2,
            "cpu_num_from": 4,
            "cpu_num_to": 64,
            "memory_size_from": 24,
            "cuda_v_from": 118,
            "cuda_v_to": 128,
            "price_to": 3500,
            "dc_list": ["lab-a", "lab-b"],
            "env_vars": {"MODE": "yes", "VERSION": "1.10", "TOKEN": "sesame"},
        },
    }


def test_an_autodl_body_is_a_valid_file_and_means_itself() -> None:
    body = {
        "name": "ocr-batch",
        "deployment_type": "Job",
        "replica_num": 6,
        "parallelism_num": 2,
        "reuse_container": True,
        "reuse_container_scope": "deployment",
        "service_6006_port_protocol": "http",
        "service_6008_port_protocol": "tcp",
        "container_template": {
            "dc_list": ["lab-a", "lab-b"],
            "gpu_name_set": ["RTX 4090", "L20"],
            "gpu_num": 1,
            "cuda_v_from": 118,
            "cuda_v_to": 128,
            "cpu_num_from": 4,
            "cpu_num_to": 64,
            "memory_size_from": 8,
            "memory_size_to": 256,
            "price_from": 10,
            "price_to": 3000,
            "image_uuid": "image-5d0c77e1ab",
            "cmd": "cd /root && python ocr.py --shard ${AutoDLContainerUUID}",
            "cmd_before_shutdown": "sync",
            "env_vars": {"A": "1"},
        },
    }
    for text in (json.dumps(body), json.dumps(body, indent=2)):
        reading = read(text)
        assert reading.problems == ()
        assert reading.body == body


def test_what_a_reading_means_is_a_file_that_means_the_same() -> None:
    first = read(REST + "gpu: [A, B]\nservice: {health_check: none}\nreuse: true\ncpu: 2..\n").body
    assert read(json.dumps(first)).body == first


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cpu: 4..8", {"cpu_num_from": 4, "cpu_num_to": 8}),
        ("cpu: 4 .. 8", {"cpu_num_from": 4, "cpu_num_to": 8}),
        ("cpu: 4..", {"cpu_num_from": 4}),
        ("cpu: ..8", {"cpu_num_to": 8}),
        ("cpu: 8", {"cpu_num_from": 8}),
        ("cpu_num_from: 8", {"cpu_num_from": 8}),
        ("memory: 24", {"memory_size_from": 24}),
        ("memory: 24GB..48gib", {"memory_size_from": 24, "memory_size_to": 48}),
        ("memory: ..1TB", {"memory_size_to": 1024}),
        ("cuda: 12.8", {"cuda_v_from": 128}),
        ("cuda: 118..128", {"cuda_v_from": 118, "cuda_v_to": 128}),
        ("cuda_v: 0", {"cuda_v": 0}),
        ("cuda_v_to: 1000", {"cuda_v_to": 1000}),
        ("price: 3.5", {"price_to": 3500}),
        ("price: 0.1..", {"price_from": 100}),
        ("price_to: 9000", {"price_to": 9000}),
        ("gpu: RTX 4090", {"gpu_name_set": ["RTX 4090"]}),
        ("gpu: 4", {"gpu_num": 4}),
        ("gpu: any:4", {"gpu_num": 4}),
        ("gpu: [RTX 4090:2, L20:2]", {"gpu_name_set": ["RTX 4090", "L20"], "gpu_num": 2}),
        ("gpu: [RTX 4090, L20:2]", {"gpu_name_set": ["RTX 4090", "L20"], "gpu_num": 2}),
        ("gpu: {model: [RTX 4090, L20], count: 2}", {"gpu_name_set": ["RTX 4090", "L20"], "gpu_num": 2}),
        ("gpu_name_set: L20", {"gpu_name_set": ["L20"]}),
        ("data_centers: lab-a", {"dc_list": ["lab-a"]}),
        ("env: [A=b=c, SHELL]", {"env_vars": {"A": "b=c", "SHELL": "fish"}}),
        ("env: {A: 007, B: null, C: ''}", {"env_vars": {"A": "007", "B": "taken", "C": ""}}),
        ("env:", {}),
        ("cpu:", {}),
    ],
)
def test_a_field_means(line: str, expected: dict[str, Any]) -> None:
    assert template(line, SHELL="fish", B="taken") == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("reuse: true", {"reuse_container": True, "reuse_container_scope": "all"}),
        ("reuse: all", {"reuse_container": True, "reuse_container_scope": "all"}),
        ("reuse: no", {"reuse_container": False}),
        ("container_template: {reuse_container: true}", {"reuse_container": True}),
        ("type: job", {"deployment_type": "Job", "parallelism_num": 1}),
        ("type: Container", {"deployment_type": "Container"}),
        ("replicas: 0", {"replica_num": 0}),
        ("ports: {6008: TCP}", {"service_6008_port_protocol": "tcp"}),
        ("service_port_protocol: tcp", {"service_port_protocol": "tcp"}),
        ("service: {health_check: none}", {"service": {"health_check": None}}),
        ("service: {health_check: null}", {"service": {"health_check": None}}),
        ("service: {drain: 2m, drain_grace: 1}", {"service": {"drain_seconds": 120.0, "drain_grace_seconds": 1.0}}),
        ("service: {budgets: {tokens: 9}}", {"service": {"budgets": {"tokens": 9}}}),
    ],
)
def test_a_top_level_field_means(line: str, expected: dict[str, Any]) -> None:
    reading = read(REST + line)
    assert reading.problems == ()
    assert {key: reading.body.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("replica: 3", "replica: unknown field; did you mean 'replicas'?"),
        ("gpus: RTX 4090", "gpus: unknown field; did you mean 'gpu'?"),
        ("service: {concurrent: 8}", "service.concurrent: unknown field; did you mean 'concurrency'?"),
        ("replicas: three", "replicas: 'three' is not a whole number of at least 0"),
        ("replicas: -1", "replicas: '-1' is not a whole number of at least 0"),
        ("replicas: [3]", "replicas: is a list; write 3"),
        ("type: daemon", "type: 'daemon' is not one of replicaset, job, container"),
        ("cpu: 8..4", "cpu: 8..4 runs backwards; the smaller number comes first"),
        ("cpu: ..", "cpu: '..' has no bound; write 4..8, 4.. or ..8, or leave the field out"),
        ("price: 0", "price: ends at 0, which AutoDL reads as no end; leave the end open, or begin at 1"),
        ("cpu: 4-8", "cpu: '4-8' is not a whole number of at least 0"),
        ("memory: 24MB", "memory: '24MB' is not a number of GB; write 24 or 24GB"),
        (
            "memory_size_from: 25769803776",
            "memory_size_from: 25769803776 GB is more than any machine has; give GB, not bytes",
        ),
        ("cuda: new", "cuda: 'new' is not a CUDA version; write 12.8 (or 128)"),
        ("price: cheap", "price: 'cheap' is not a price; write yuan per GPU-hour, like 3.5"),
        ("price: 0.0001", "price: 0.0001 is finer than 1/1000 yuan; round it"),
        ("gpu: RTX 4090:two", "gpu: 'RTX 4090:two' is not MODEL:COUNT; write RTX 4090:2"),
        ("gpu: RTX 4090:0", "gpu: '0' is not a whole number of at least 1"),
        ("gpu: [A:1, B:2]", "gpu: asks for [1, 2] GPUs at once; a container has one number of GPUs"),
        ("gpu: {names: A}", "gpu.names: unknown field; known: model, count"),
        ("env: [NOWHERE]", "env: NOWHERE has no value here and is not set in this shell; give it a value"),
        ("env: {A-B: 1}", "env.A-B: 'A-B' is no name of a variable; use letters, digits and _"),
        ("env: {A: [1]}", "env.A: is a list; write one text"),
        ("ports: {8080: http}", "ports.8080: is no port with an address; only 6006 and 6008 have one"),
        ("ports: {6006: udp}", "ports.6006: 'udp' is not one of http, tcp"),
        ("reuse: mine", "reuse: 'mine' is not one of true, false, deployment, all"),
        ("service: {drain: soon}", "service.drain: 'soon' is not a duration; write 30s, 500ms, 2m or 1h"),
        ("service: {health_check: {port: 80}}", "service.health_check.port: must be one of (6006, 6008), got 80"),
        ("service: {health_check: {path: health}}", "service.health_check.path: must start with '/', got 'health'"),
        ("service: 8", "service: is a single value; write its fields below it, indented"),
        ("cpu_num: 3", "cpu_num: unknown field; did you mean 'cpu_num_from'?"),
        ("cmd: d", "cmd: is given twice, also in line 3; keep one"),
        ("container_template: {cmd: d}", "container_template.cmd: says again what 'cmd' says in line 3; keep one"),
        ("parallelism: 2", "parallelism: only a job has it; use replicas, or type: job"),
        ("key: a: b", "is not YAML: mapping values are not allowed here; quote a text that contains ': '"),
        ("\tcpu: 4", "is not YAML: found character '\\t' that cannot start any token; indent with spaces, not tabs"),
        ("---\nname: b", "a second document begins here; put one deployment into a file"),
    ],
)
def test_a_wrong_field_is_told_its_line_and_what_would_be_right(line: str, message: str) -> None:
    expected = f"f.yml:4: {message}"
    if "unknown field" in message:
        assert any(each.startswith(expected) for each in told(REST + line)), told(REST + line)
    else:
        assert told(REST + line) == [expected]


def test_everything_wrong_is_told_at_once_in_the_order_of_the_file() -> None:
    assert told("named: x\nreplicas: many\nservice:\n  drain: x\n\n  health_check:\n    path: y\n") == [
        "f.yml:1: cmd: is missing; add a line like 'cmd: python serve.py'",
        "f.yml:1: image: is missing; add a line like 'image: local' (see: muster images)",
        "f.yml:1: name: is missing; add a line like 'name: digits'",
        "f.yml:1: named: unknown field; did you mean 'name'?",
        "f.yml:2: replicas: 'many' is not a whole number of at least 0",
        "f.yml:4: service.drain: 'x' is not a duration; write 30s, 500ms, 2m or 1h",
        "f.yml:7: service.health_check.path: must start with '/', got 'y'",
    ]


def test_ranges_across_lines_are_compared() -> None:
    assert told(REST + "price_from: 9\nprice_to: 8") == [
        "f.yml:5: price_to: ends at 8, below its beginning 9; swap them"
    ]


def test_a_container_is_always_one() -> None:
    assert told(REST + "type: container\nreplicas: 2") == [
        "f.yml:5: replicas: a container is always one; use type: replicaset for more"
    ]


def test_anchors_and_merge_keys_work_and_own_fields_win() -> None:
    body = read("name: n\nimage: i\ncmd: c\ncontainer_template: &t {cpu: 1.., gpu: A}\n").body
    assert body["container_template"]["cpu_num_from"] == 1
    merged = template("env:\n  <<: {A: 1, B: 2}\n  B: 3")
    assert merged == {"env_vars": {"B": "3", "A": "1"}}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "f.yml:1: is empty; give at least name, image and cmd"),
        ("# nothing\n", "f.yml:1: is empty; give at least name, image and cmd"),
        ("- a", "f.yml:1: is a list; write fields, like 'name: digits'"),
        ("hello", "f.yml:1: is a single value; write fields, like 'name: digits'"),
        ("a: [1\nb: 2", "f.yml:2: is not YAML"),
        ("a: \x00", "f.yml:1: is not YAML"),
        ("[" * 600, "f.yml:1: is not YAML"),
    ],
)
def test_something_that_is_no_deployment_is_told_so(source: str, message: str) -> None:
    assert told(source)[0].startswith(message)


def test_each_wire_field_knows_its_line() -> None:
    reading = read("name: n\nimage: i\ncmd: c\ncontainer_template:\n  cpu: 4..8\n")
    place = reading.places["container_template.cpu_num_to"]
    assert (place.path, place.line) == ("container_template.cpu", 5)
    assert reading.places["name"].line == 1


def test_a_character_that_json_writes_as_two_escapes_is_one() -> None:
    reading = read_deployment('{"name": "\\ud83d\\ude80", "image": "i", "cmd": "c"}', {})
    assert reading.problems == ()
    assert reading.body["name"] == "🚀"
