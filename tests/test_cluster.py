"""What a cluster is to run, in the words of each engine; and what of a lab's guarantees is said to be kept there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import kubernetes_validate
import pytest
import yaml

from labkit import Lab
from labkit.cluster import deployment, engine, guarantees, seccomp, swarm
from labkit.cluster.deployment import Deployment
from labkit.cluster.engine import Difference
from labkit.cluster.kubernetes import api as kubernetes_api
from labkit.cluster.kubernetes import deploy, manifests
from labkit.cluster.swarm import spec, stack
from labkit.errors import ConfigError
from labkit.model.lab import Replica

NODES = ("10.99.0.1", "10.99.0.2")


def deployed(
    lab: Lab, digit: str = "0", address: Callable[[Replica], str] = deployment.by_name
) -> Deployment:
    """The lab's deployment, of images that do not exist."""
    tags = ("web", "dns", *(site.name for site in lab.sites))
    images = {tag: f"registry.test:5000/lab/{tag}@sha256:{digit * 64}" for tag in tags}
    return deployment.of(lab, images, NODES, address)


def api(wanted: Deployment, name: str, nodes: int = 2) -> dict[str, Any]:
    """A service in the words of the Engine API."""
    networks = {spec.full_name(wanted, item): item for item in wanted.networks}
    item = wanted.service(name)
    configs = {spec.config_name(wanted, file): file.name for file in item.files}
    return spec.service(wanted, item, networks=networks, configs=configs, nodes=nodes)


def test_each_site_has_a_network_of_its_own_that_the_balancer_shares() -> None:
    """No two sites' replicas are on one network, and those networks lead nowhere."""
    wanted = deployed(Lab.of({"sites": ["red", "blue"]}))
    red, blue, balancer = (
        set(wanted.service(name).networks) for name in ("red", "blue", "balancer")
    )
    assert not red & blue
    assert red | blue < balancer
    assert all(wanted.networks[name] for name in red | blue)


@pytest.mark.parametrize(("nodes", "order"), [(2, "stop-first"), (3, "start-first")])
def test_a_task_starts_before_the_old_one_stops_where_there_is_room(nodes: int, order: str) -> None:
    """With as many nodes as replicas, there would be no node for the new task, for ever."""
    assert api(deployed(Lab.of({})), "site1", nodes)["UpdateConfig"]["Order"] == order


def test_what_the_engine_adds_is_no_difference_and_what_somebody_changed_is() -> None:
    """Only what labkit asks for is compared, at every depth."""
    body = api(deployed(Lab.of({})), "site1")
    seen = json.loads(json.dumps(body))
    seen["TaskTemplate"]["ForceUpdate"] = 3
    assert list(spec.differences(body, seen)) == []
    seen["TaskTemplate"]["ContainerSpec"]["ReadOnly"] = False
    seen["Mode"]["Replicated"]["Replicas"] = 1
    assert {key for key, _, _ in spec.differences(body, seen)} == {
        "TaskTemplate.ContainerSpec.ReadOnly",
        "Mode.Replicated.Replicas",
    }


def test_a_changed_file_is_another_config() -> None:
    """So that a changed balancer is rolled out, and the same one is not."""
    names = [
        {spec.config_name(wanted, file) for file in wanted.service("balancer").files}
        for wanted in (
            deployed(Lab.of(values)) for values in ({}, {}, {"proxy": {"lbmethod": "bybusyness"}})
        )
    ]
    assert names[0] == names[1]
    assert len(names[0] & names[2]) == 1  # the script is the same


@pytest.mark.parametrize("version", ["1.28", "1.32", "1.36"])
def test_kubernetes_own_schema_takes_every_object(version: str) -> None:
    """Strictly: an unknown key is an error."""
    for item in manifests.objects(deployed(Lab.of({})), NODES):
        kubernetes_validate.validate(item, version, strict=True)


def test_an_old_api_server_gets_what_it_knows() -> None:
    """The versions of 1.20, and no field that came later; a newer one gets the object as it is."""
    made = manifests.objects(deployed(Lab.of({})), NODES)
    old = {item["kind"]: manifests.adapted(item, 20) for item in made}
    assert old["PodDisruptionBudget"]["apiVersion"] == "policy/v1beta1"
    assert old["DaemonSet"]["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 1}
    assert [manifests.adapted(item, 28) for item in made] == made


def test_a_pod_tells_by_which_template_it_was_made() -> None:
    """Another page is another template of that site's replicas alone; the same lab makes the same ones."""

    def templates(digit: str, **values: Any) -> dict[str, str]:
        found = manifests.objects(deployed(Lab.of(values), digit), NODES)
        pods = {
            item["metadata"]["name"]: item["spec"]["template"]
            for item in found
            if "template" in item.get("spec", {})
        }
        return {name: pod["metadata"]["labels"][manifests.TEMPLATE] for name, pod in pods.items()}

    first = templates("0")
    assert templates("0") == first
    assert {
        name
        for name, mark in templates("0", proxy={"lbmethod": "bybusyness"}).items()
        if mark != first[name]
    } == {"balancer"}
    assert all(mark != first[name] for name, mark in templates("1").items())


def test_the_balancer_on_kubernetes_asks_for_no_name() -> None:
    """It finds a replica by its Service's address, or by the kubelet's variable for it; its port is no port of the host, which
    the standard "restricted" forbids."""
    lab = Lab.of({"sites": ["red-shop"]})
    for address, written in (
        (manifests.address, "${RED_SHOP_1_SERVICE_HOST}"),
        (lambda _: "10.96.0.7", "10.96.0.7"),
    ):
        found = manifests.objects(deployed(lab, address=address), NODES)
        text = next(
            item["data"]["balancer.conf"]
            for item in found
            if "balancer.conf" in item.get("data", {})
        )
        assert f'BalancerMember "http://{written}:80" route=red-shop-1 ' in text
    assert "hostPort" not in json.dumps(found)
    pods = [
        item["spec"]["template"]["spec"]
        for item in found
        if item["kind"] in ("Deployment", "DaemonSet")
    ]
    assert all(pod["dnsPolicy"] == "None" for pod in pods)
    service = next(
        item["spec"]
        for item in found
        if (item["kind"], item["metadata"]["name"]) == ("Service", "balancer")
    )
    assert (service["externalIPs"], service["externalTrafficPolicy"]) == ([*NODES], "Local")


def test_a_look_from_inside_is_a_replicas_pod_that_answers_for_nobody() -> None:
    """The same image, user and limits; without the labels by which Services and policies find replicas."""
    made = manifests.objects(deployed(Lab.of({})), NODES)
    one = next(item for item in made if item["kind"] == "Deployment")
    pod = manifests.look(one, "look-a", "a", ["sh", "-c", "true"])
    kubernetes_validate.validate(pod, "1.32", strict=True)
    own, its = pod["spec"]["containers"][0], one["spec"]["template"]["spec"]["containers"][0]
    for key in ("image", "securityContext", "resources", "volumeMounts"):
        assert own[key] == its[key]
    assert set(pod["metadata"]["labels"]).isdisjoint(
        {"labkit.site", manifests.REPLICA, manifests.SERVICE}
    )
    assert pod["spec"]["nodeName"] == "a"


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        ({"status": {"replicas": 1}, "metadata": {"name": "a", "generation": 2, "resourceVersion": "7", "managedFields": [{}]}}, []),
        ({"spec": {"ports": [{"port": 80}]}}, [("spec.ports[0].port", "90", "80")]),
        ({"spec": {"ports": []}}, [("spec.ports", '[{"port": 90}]', "[]")]),
        ({"spec": {"ports": [{"port": 90}], "more": 1}}, [("spec.more", "null", "1")]),
    ],
)  # fmt: skip
def test_what_a_dry_run_would_change(
    seen: dict[str, Any], found: list[tuple[str, str, str]]
) -> None:
    """At every depth, whether it would be set, changed or removed; what the server counts for itself is none of it."""
    wanted = {"metadata": {"name": "a", "generation": 3}, "spec": {"ports": [{"port": 90}]}}
    assert list(manifests.differences(wanted, {**wanted, **seen})) == found


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"phase": "Running", "containerStatuses": [{"ready": True, "restartCount": 3, "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 1}}}]}, ""),
        ({"phase": "Pending", "containerStatuses": [{"ready": False, "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}}]}, ""),
        ({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes"}]}, "Unschedulable: 0/2 nodes"),
        ({"phase": "Failed", "reason": "SysctlForbidden", "message": "forbidden sysctl"}, "SysctlForbidden: forbidden sysctl"),
        ({"phase": "Pending", "containerStatuses": [{"ready": False, "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]}, "ImagePullBackOff: no such image"),
        (
            {"phase": "Running", "containerStatuses": [{"ready": False, "restartCount": 2, "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]},
            "ended with exit status 137 (OOMKilled), 2 times",
        ),
    ],
)  # fmt: skip
def test_why_a_pod_does_not_run(status: dict[str, Any], said: str) -> None:
    """In the engine's own words; nothing of one that is on its way."""
    assert "; ".join(kubernetes_api.errors(status)) == said


@pytest.mark.parametrize(
    ("taints", "ready", "state"),
    [
        ([], "True", "ready"),
        ([], "Unknown", "not ready"),
        ([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}], "True", "unschedulable"),
        ([{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}], "Unknown", "not ready"),
        ([{"key": "somebody/else", "effect": "PreferNoSchedule"}], "True", "ready"),
        ([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}], "True", None),
    ],
)  # fmt: skip
def test_which_nodes_are_the_labs(
    taints: list[dict[str, str]], ready: str, state: str | None
) -> None:
    """One that is away for a while still is; one that keeps pods away for good is not."""
    status = {"addresses": [{"type": "InternalIP", "address": "fd00::1"}, {"type": "InternalIP", "address": "10.0.0.1"}], "conditions": [{"type": "Ready", "status": ready}], "nodeInfo": {"kubeletVersion": "v1.20.2"}}  # fmt: skip
    node = kubernetes_api._node(
        {"metadata": {"name": "a"}, "spec": {"taints": taints}, "status": status}
    )
    assert (node and (node.address, node.state)) == (state and ("10.0.0.1", state))


class Told:
    """A cluster that tells of these nodes and pods."""

    def __init__(self, nodes: dict[str, str], pods: list[dict[str, Any]]) -> None:
        self._nodes, self._pods = nodes, pods

    def nodes(self) -> list[kubernetes_api.Node]:
        """A node for each name, with its state."""
        return [
            kubernetes_api.Node(name=name, address="10.0.0.1", version="v1", state=state)
            for name, state in self._nodes.items()
        ]

    def pods(self) -> list[kubernetes_api.Pod]:
        """Ready pods by the wanted template, unless they say otherwise."""
        base = {
            "name": "x",
            "image": "",
            "address": "",
            "ready": True,
            "ending": False,
            "error": "",
        }
        return [kubernetes_api.Pod.model_validate({**base, **pod}) for pod in self._pods]

    def objects(self) -> dict[tuple[str, str], Any]:
        """None of them says anything."""
        return {}


@pytest.mark.parametrize(
    ("nodes", "pods", "said"),
    [
        ({"a": "ready"}, [{}, {"owner": "dns", "node": "a"}], ""),
        ({"a": "unschedulable"}, [{}, {"owner": "dns", "node": "a"}], ""),
        ({"a": "ready", "b": "not ready"}, [{}, {"owner": "dns", "node": "a"}, {"owner": "dns", "node": "b", "ready": False}], ""),
        ({"a": "ready", "b": "unschedulable"}, [{}, {"owner": "dns", "node": "a"}], "dns: 1 of 2 pods ready"),
        ({"a": "not ready"}, [{}], "red-1: 0 of 1 pod ready"),
        ({"a": "ready"}, [{}, {"template": "before"}], "red-1: 1 of 1 pod ready, and one of before"),
        ({"a": "ready"}, [{}, {"template": "before", "ending": True}, {"owner": "dns", "node": "a"}], ""),
        ({"a": "ready"}, [{"template": "before"}, {"node": "", "ready": False, "error": "Unschedulable: no room"}], "red-1: 0 of 1 pod ready, and one of before; Unschedulable: no room"),
        ({"a": "ready"}, [{"template": "before", "error": "ended"}, {"ready": False}], "red-1: 0 of 1 pod ready, and one of before"),
    ],
)  # fmt: skip
def test_what_an_up_waits_for(nodes: dict[str, str], pods: list[dict[str, Any]], said: str) -> None:
    """One pod of each replica, and one of the others on each node that answers, by the wanted template; and no other one."""
    whole = deployed(Lab.of({"sites": ["red"], "replicas": 1}))
    made = manifests.objects(whole, NODES)
    wanted = deploy.Wanted(
        whole, [item for item in made if item["metadata"]["name"] in ("red-1", "dns")]
    )
    kinds = ("Deployment", "DaemonSet")
    marks = {name: mark for _, name, mark in wanted.workloads(kinds)}
    told = [{"owner": "red-1", "node": "a", **pod} for pod in pods]
    told = [{"template": marks[pod["owner"]], **pod} for pod in told]
    problem = deploy._problem(Told(nodes, told), wanted, kinds, None)  # type: ignore[arg-type]
    assert "; ".join(filter(None, [problem.text, problem.error])) == said


def test_what_one_node_does_not_keep_is_lost() -> None:
    """The table has the worst of all nodes; without a look, it says what is stated."""
    kept = guarantees.of_kubernetes(Lab.of({}))
    good = guarantees.read(["labkit:uid=33", "labkit:route-out=no"])
    bad = guarantees.read(["labkit:uid=33", "labkit:route-out=yes", "labkit:reach-10.0.0.1=yes"])

    def rows(**seen: guarantees.Inside) -> dict[str, str]:
        frame = engine.table(kept, seen, privileges=True).frame()
        return dict(zip(frame["guarantee"], frame["here"], strict=True))

    assert (
        rows(a=good)["the outside"] == rows()["the outside"] == "kept by the daemon's configuration"
    )
    both = rows(a=good, b=bad)
    assert both["user"] == "kept"
    assert {
        both[name] for name in ("the outside", "other sites' replicas", "replicas of the same site")
    } == {"lost"}
    assert [
        check.holds
        for check in engine.confined(kept, {"a": guarantees.read([])}, privileges=True, again="")
    ] == [False]


def test_what_is_left_to_change_fails_the_check() -> None:
    """By the name of what differs."""
    one = Difference(what="Service red-1", key="spec.type", wanted="a", seen="b")
    assert engine.settings([one], again="").seen == "not Service red-1 spec.type"
    assert engine.settings([], again="").holds


def test_a_folder_for_kustomize_names_all_of_its_files() -> None:
    """Each object once, whole after YAML."""
    wanted = deployed(Lab.of({}))
    files = manifests.files(wanted, NODES)
    named = yaml.safe_load(files["kustomization.yaml"])["resources"]
    assert {name for name in files if name.endswith(".yaml")} == {*named, "kustomization.yaml"}
    found = [item for name in named for item in yaml.safe_load_all(files[name])]
    key = lambda item: (item["kind"], item["metadata"]["name"])  # noqa: E731
    assert sorted(found, key=key) == sorted(manifests.objects(wanted, NODES), key=key)


def test_a_profile_for_an_old_docker_names_the_calls_that_it_would_refuse_otherwise() -> None:
    """Docker 20.10 answers EPERM to what a profile does not name; apache2 fails on clone3 then."""
    old = seccomp.profile(errno_of_default=False)
    assert [rule["errnoRet"] for rule in old["syscalls"] if "clone3" in rule["names"]] == [38]


def test_what_was_seen_otherwise_is_lost() -> None:
    """A guarantee that is stated as kept is not said to be kept when the look from inside found another thing."""
    lab = Lab.of({})
    inside = guarantees.read(
        [
            "labkit:uid=33",
            "labkit:CapBnd=0000000000000000",
            "labkit:root-writable=yes",
            "reach-10.0.0.1=yes",
            "labkit:reach-10.0.0.2=yes",
        ]
    )
    rows = {
        row["guarantee"]: row
        for row in guarantees.table(guarantees.of(lab), inside, privileges=True)
    }
    assert rows["user"]["here"] == "kept"
    assert rows["root file system"]["here"] == "lost"
    assert rows["other sites' replicas"]["here"] == "lost"
    assert "10.0.0.1" not in rows["other sites' replicas"]["seen"]  # no line of the script's
    wrong = guarantees.broken(guarantees.of(lab), inside, privileges=True)
    assert any(line.startswith("root file system") for line in wrong)
    assert not any(line.startswith("user:") for line in wrong)


def test_a_stack_is_what_the_engine_api_gets_as_far_as_compose_can_say_it() -> None:
    """Image, user, limits and networks are the same in both."""
    wanted = deployed(Lab.of({}))
    files = stack.files(wanted, "registry.test:5000")
    read = yaml.safe_load(files["stack.yml"])
    for item in wanted.services:
        body, own = api(wanted, item.name)["TaskTemplate"], read["services"][item.name]
        assert own["image"] == body["ContainerSpec"]["Image"]
        assert own["user"] == body["ContainerSpec"]["User"]
        assert own["deploy"]["resources"]["limits"]["pids"] == body["Resources"]["Limits"]["Pids"]
        assert all(f"configs/{source['source']}" in files for source in own["configs"])


@pytest.mark.parametrize(
    "host",
    ["", "ftp://x", "ssh://", "tcp://:2376", "ssh://x:port", "unix://", "node1", "ssh://x:99999"],
)
def test_what_names_no_engine_is_refused_before_anything_is_asked(host: str) -> None:
    """With the value and a remedy."""
    with pytest.raises(ConfigError, match="names no Docker engine"):
        swarm.plan(Lab.of({}), host)
