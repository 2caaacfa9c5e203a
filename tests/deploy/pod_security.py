"""The Pod Security Standard `restricted`, which includes `baseline`, as Kubernetes publishes it.

https://kubernetes.io/docs/concepts/security/pod-security-standards
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
_SELINUX = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
_CONFINED = {"RuntimeDefault", "Localhost"}
_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
}
_PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
_HOOKS = ("postStart", "preStop")


def violations(pod: dict[str, Any]) -> list[str]:
    """Returns a line for each field of a pod's spec that the standard forbids, or demands and misses."""
    return list(_pod(pod))


def _pod(pod: dict[str, Any]) -> Iterator[str]:
    context = pod.get("securityContext", {})
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield field
    for sysctl in context.get("sysctls", ()):
        if sysctl["name"] not in _SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    for volume in pod.get("volumes", ()):
        if not (volume.keys() - {"name"}) <= _VOLUMES:
            yield f"volume {volume['name']}"
    yield from _both("pod", context)
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in pod.get(kind, ()):
            yield from _container(container, context)


def _both(where: str, context: dict[str, Any]) -> Iterator[str]:
    """Yields violations of the rules that a pod's and a container's security context share."""
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield f"{where}: hostProcess"
    if context.get("appArmorProfile", {}).get("type", "RuntimeDefault") not in _CONFINED:
        yield f"{where}: appArmorProfile"
    selinux = context.get("seLinuxOptions", {})
    if selinux.get("type") not in _SELINUX or selinux.get("user") or selinux.get("role"):
        yield f"{where}: seLinuxOptions"
    if context.get("seccompProfile", {}).get("type", "RuntimeDefault") not in _CONFINED:
        yield f"{where}: seccompProfile"
    if context.get("runAsNonRoot", True) is not True:
        yield f"{where}: runAsNonRoot"
    if context.get("runAsUser") == 0:
        yield f"{where}: runAsUser"


def _container(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    name = container["name"]
    context = container.get("securityContext", {})
    yield from _both(name, context)
    # Either the pod or the container must set these fields.
    if "runAsNonRoot" not in pod | context:
        yield f"{name}: runAsNonRoot is not set"
    if "seccompProfile" not in pod | context:
        yield f"{name}: seccompProfile is not set"
    if context.get("privileged"):
        yield f"{name}: privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: allowPrivilegeEscalation"
    if context.get("procMount", "Default") != "Default":
        yield f"{name}: procMount"
    capabilities = context.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", ()):
        yield f"{name}: does not drop all capabilities"
    if not set(capabilities.get("add", ())) <= {"NET_BIND_SERVICE"}:
        yield f"{name}: adds capabilities"
    if any(port.get("hostPort") for port in container.get("ports", ())):
        yield f"{name}: hostPort"
    actions = [container.get(probe, {}) for probe in _PROBES]
    actions += [container.get("lifecycle", {}).get(hook, {}) for hook in _HOOKS]
    if any(action.get(kind, {}).get("host") for action in actions for kind in ("httpGet", "tcpSocket")):
        yield f"{name}: a probe or hook of another host"
