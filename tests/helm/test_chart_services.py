"""How the Services are reached, and under which names."""

from pathlib import Path

import pytest

from tests.helm.chart import CHART, named, rendered, serve_config
from tests.helm.generators import golden

CI = CHART / "ci"
each_case = pytest.mark.parametrize("file", golden.cases().values(), ids=golden.cases().keys())


@each_case
def test_services_say_whether_it_is_tls(file: Path) -> None:
    """Gateways and meshes act on it: what is called cleartext is not spoken to over TLS."""
    objects = rendered(file)
    front = serve_config(objects)["applications"][0]["args"]["front"]
    cleartext = {"grpc": "kubernetes.io/h2c", "http": "http"}
    wanted = {"grpc": "https", "http": "https"} if "tls_cert" in front else cleartext
    ports = [port for one in objects if one["kind"] == "Service" for port in one["spec"]["ports"]]
    said = {port["name"]: port["appProtocol"] for port in ports if "appProtocol" in port}
    assert said.items() <= wanted.items()
    assert "grpc" in said


def test_the_certificate_has_the_services_names() -> None:
    objects = rendered(CI / "security-values.yaml")
    names = named(objects, "Certificate")["spec"]["dnsNames"]
    for service in ("mesh-expertmesh", "mesh-expertmesh-http"):
        assert named(objects, "Service", service)["spec"]["ports"][0]["appProtocol"] == "https"
        for domain in ("", ".serving", ".serving.svc", ".serving.svc.cluster.local"):
            assert service + domain in names
    assert names[-1] == "mesh.example.org"
    assert len(set(names)) == len(names)
    without = rendered(CI / "security-values.yaml", sets=("http.enabled=false",))
    assert not [name for name in named(without, "Certificate")["spec"]["dnsNames"] if "-http" in name]


def test_services_for_a_load_balancer() -> None:
    objects = rendered(CI / "platform-values.yaml")
    grpc, page = (named(objects, "Service", f"mesh-expertmesh{suffix}") for suffix in ("", "-http"))
    assert grpc["metadata"]["labels"]["dns"] == "internal"
    assert (grpc["spec"]["type"], grpc["spec"]["loadBalancerClass"]) == ("LoadBalancer", "example.org/nlb")
    assert grpc["spec"]["loadBalancerSourceRanges"] == ["10.0.0.0/8"]
    assert (page["spec"]["type"], page["spec"]["externalTrafficPolicy"]) == ("NodePort", "Local")
    assert page["metadata"]["annotations"] == {"example.org/page": "true"}
