"""The peers: the same meta-gradients by `higher`, by `torchopt`, and by a plain loop in PyTorch.

Each follows its library's documentation, takes one task after the other, and returns the outer gradient summed over the
tasks under the names of the meta-parameters. `higher` (Grefenstette et al. 2019, arXiv 1910.01727) and `torchopt` (Ren
et al. 2022, arXiv 2211.06934) are development dependencies, imported when they are used.

The plain loop is what an experienced user writes: `functional_call` on a plain module, the inner gradient with its
graph, one backward pass per task. ANIL's body runs once per task; Reptile steps a copy with torch's Adam and evaluates
its queries as the engine does.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from benchmarks.engine.common.networks import PlainNetwork, plain_network
from benchmarks.engine.common.workload import Workload
from distmeta.config import BackpropConfig, GradientConfig, Phase, RunConfig
from distmeta.core.types import Batch, Episode, Params

Run = Callable[[], Params]
Loss = Callable[[Tensor, Tensor | None], Tensor]
Backward = Callable[[PlainNetwork, Params, Episode], None]
PLAIN_LOOP = "plain_loop"


def left_out(name: str, config: RunConfig) -> str | None:
    """Why a peer does not take part in a problem; None where it does."""
    if name == PLAIN_LOOP:
        return None
    learner, estimator = config.algorithm.learner, config.algorithm.estimator
    exact = isinstance(estimator, BackpropConfig) and estimator.order == 2
    if not (exact and isinstance(learner, GradientConfig) and _whole_network_sgd(learner)):
        return "compared where all parameters take SGD steps, at exact second order"
    if importlib.util.find_spec(name) is None:
        return f"{name} is not installed; `pip install 'distmeta[dev]'` installs it"
    return None


def _whole_network_sgd(learner: GradientConfig) -> bool:
    (phase, *more) = learner.phases
    plain = phase.optimizer == "sgd" and phase.batch is None and phase.l2sp == 0 and phase.groups == ("all",)
    return plain and not more and not learner.learned_lr and learner.head == "meta"


def by_higher(workload: Workload) -> Run:
    """`higher.innerloop_ctx` over a differentiable SGD."""
    higher = importlib.import_module("higher")
    loss, phase = _loss(workload), _phase(workload)

    def backward(net: PlainNetwork, parameters: Params, task: Episode) -> None:
        inner = torch.optim.SGD(net.parameters(), lr=phase.lr)
        with higher.innerloop_ctx(net, inner, copy_initial_weights=False) as (fast, steps):
            for _ in range(phase.steps):
                steps.step(loss(fast(task.support.inputs), task.support.targets))
            query = task.query
            torch.autograd.backward(loss(fast(query.inputs), query.targets))

    return _task_by_task(workload, backward)


def by_torchopt(workload: Workload) -> Run:
    """`torchopt.MetaSGD`; the network's state is restored after each task."""
    torchopt = importlib.import_module("torchopt")
    net, tasks = plain_network(workload.config, workload.meta), workload.tasks()
    loss, phase = _loss(workload), _phase(workload)
    leaves = dict(net.named_parameters())

    def run() -> Params:
        for leaf in leaves.values():
            leaf.grad = None
        inner = torchopt.MetaSGD(net, lr=phase.lr)
        start = torchopt.extract_state_dict(net, by="reference"), torchopt.extract_state_dict(inner, by="reference")
        for task in tasks:
            for _ in range(phase.steps):
                inner.step(loss(net(task.support.inputs), task.support.targets))
            query = task.query
            torch.autograd.backward(loss(net(query.inputs), query.targets))
            torchopt.recover_state_dict(net, start[0])
            torchopt.recover_state_dict(inner, start[1])
        return {name: _gradient(leaf) for name, leaf in leaves.items()}

    return run


def by_plain_loop(workload: Workload) -> Run:
    """The plain loop of the problem's method."""
    algorithm = workload.config.algorithm
    if algorithm.learner.kind == "prototype":
        return _task_by_task(workload, _prototype_backward)
    if algorithm.estimator.kind == "displacement":
        return _plain_reptile(workload)
    return _plain_head(workload) if _phase(workload).groups == ("head",) else _plain_maml(workload)


def _task_by_task(workload: Workload, backward: Backward) -> Run:
    """Run the backward pass of each task into the gradients of one network."""
    net, tasks = plain_network(workload.config, workload.meta), workload.tasks()
    parameters: Params = dict(net.named_parameters())

    def run() -> Params:
        net.zero_grad()
        for task in tasks:
            backward(net, parameters, task)
        return {name: _gradient(parameter) for name, parameter in parameters.items()}

    return run


def _plain_maml(workload: Workload) -> Run:
    loss, phase = _loss(workload), _phase(workload)

    def backward(net: PlainNetwork, parameters: Params, task: Episode) -> None:
        fast = parameters
        for _ in range(phase.steps):
            value = loss(functional_call(net, fast, (task.support.inputs,)), task.support.targets)
            grads = torch.autograd.grad(value, list(fast.values()), create_graph=True)
            fast = {name: old - phase.lr * grad for (name, old), grad in zip(fast.items(), grads, strict=True)}
        query = task.query
        torch.autograd.backward(loss(functional_call(net, fast, (query.inputs,)), query.targets))

    return _task_by_task(workload, backward)


def _plain_head(workload: Workload) -> Run:
    loss, phase = _loss(workload), _phase(workload)

    def backward(net: PlainNetwork, parameters: Params, task: Episode) -> None:
        weight, bias = parameters["head.weight"], parameters["head.bias"]
        features = net.body(task.support.inputs)
        for _ in range(phase.steps):
            value = loss(F.linear(features, weight, bias), task.support.targets)
            grads = torch.autograd.grad(value, (weight, bias), create_graph=True)
            weight, bias = weight - phase.lr * grads[0], bias - phase.lr * grads[1]
        query = task.query
        torch.autograd.backward(loss(F.linear(net.body(query.inputs), weight, bias), query.targets))

    return _task_by_task(workload, backward)


def _prototype_backward(net: PlainNetwork, parameters: Params, task: Episode) -> None:
    support, query = task.support, task.query
    assert support.targets is not None
    assert query.targets is not None
    features = net.body(support.inputs)
    member = F.one_hot(support.targets).to(features.dtype)
    means = member.T @ features / member.sum(0)[:, None]
    distances = (net.body(query.inputs)[:, None] - means[None]).square().sum(-1)
    torch.autograd.backward(F.cross_entropy(-distances, query.targets))


def _plain_reptile(workload: Workload) -> Run:
    net, tasks = plain_network(workload.config, workload.meta), workload.tasks()
    loss, phase = _loss(workload), _phase(workload)
    parameters = dict(net.named_parameters())

    def run() -> Params:
        total = {name: torch.zeros_like(tensor) for name, tensor in workload.meta.items()}
        for task in tasks:
            net.load_state_dict(workload.meta)
            adam = torch.optim.Adam(net.parameters(), lr=phase.lr, betas=(phase.beta1, phase.beta2))
            for k in range(phase.steps):
                batch = _minibatch(task.support, phase.batch, k)
                adam.zero_grad()
                torch.autograd.backward(loss(net(batch.inputs), batch.targets))
                adam.step()
            with torch.no_grad():
                query = task.query
                loss(net(query.inputs), query.targets)
                for name, value in total.items():
                    value += workload.meta[name] - parameters[name]
        return total

    return run


def _minibatch(support: Batch, size: int | None, k: int) -> Batch:
    """Consecutive rows of the support set, wrapping round."""
    available = support.inputs.shape[0]
    if size is None or size >= available:
        return support
    rows = [(k * size + i) % available for i in range(size)]
    return support.map(lambda tensor: tensor[rows])


def _loss(workload: Workload) -> Loss:
    losses: dict[str, Loss] = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss}  # type: ignore[dict-item]
    return losses[workload.objective]


def _phase(workload: Workload) -> Phase:
    learner = workload.config.algorithm.learner
    assert isinstance(learner, GradientConfig)
    return learner.phases[0]


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.detach().clone()


PEERS: dict[str, Callable[[Workload], Run]] = {PLAIN_LOOP: by_plain_loop, "higher": by_higher, "torchopt": by_torchopt}
