"""Presets: methods with the settings of their papers for Omniglot, where those are published.

Each returns an `AlgorithmConfig`; arguments change its settings: `maml(lr=0.1, steps=5)`. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from distmeta.config import AlgorithmConfig
from distmeta.core.errors import UserError, nearest
from distmeta.methods.presets.architecture import darts
from distmeta.methods.presets.black_box import in_context, lstm, neural_process
from distmeta.methods.presets.continual import anml, oml
from distmeta.methods.presets.domains import dann, deep_coral
from distmeta.methods.presets.gradient import anil, fomaml, label_words, maml, meta_sgd, proto_maml, reptile
from distmeta.methods.presets.implicit import imaml, imaml_hf
from distmeta.methods.presets.inner import boil, cavia, maml_pp
from distmeta.methods.presets.inner_problem import hyperparameters, learned_loss, reweight
from distmeta.methods.presets.metric import knn, matching, protonet, r2d2
from distmeta.methods.presets.optimizers import evolved_optimizer, learned_optimizer
from distmeta.methods.presets.prediction import film, weight_generator
from distmeta.methods.presets.reinforcement import anil_rl, fomaml_rl, maml_rl, rl2
from distmeta.methods.presets.reuse import multitask, nil
from distmeta.methods.presets.test_time import bn_adapt, tent, ttt
from distmeta.methods.presets.transfer import (
    auto_rgn,
    fine_tuning,
    joint,
    l2sp,
    linear_probe,
    lp_ft,
    merlin,
    pretrain,
    surgical,
    target_only,
)


@dataclass(frozen=True)
class Preset:
    """A row of the table of methods.

    Attributes:
        make: Makes the method; arguments change its settings.
        title: Its name in prose.
        paper: Authors, year, arXiv number.
        job: A job that runs it.
        page: Its page in `docs/methods`; None: one of the method's name.
    """

    make: Callable[..., AlgorithmConfig]
    title: str
    paper: str
    job: str
    page: str | None = None


def _transfer(make: Callable[..., AlgorithmConfig], title: str, paper: str) -> Preset:
    """A strategy of transfer learning, all of which share a page and a file of jobs."""
    return Preset(make, title, paper, f"jobs/transfer.py:{make.__name__}", page="transfer")


def _reinforcement(make: Callable[..., AlgorithmConfig], title: str, paper: str) -> Preset:
    """A method of meta-reinforcement learning."""
    job = f"jobs/rl.py:navigation_{make.__name__.removesuffix('_rl')}"
    return Preset(make, title, paper, job, page="reinforcement")


METHODS: dict[str, Preset] = {
    "maml": Preset(maml, "MAML", "Finn et al. 2017, arXiv 1703.03400", "jobs/omniglot.py:maml"),
    "fomaml": Preset(
        fomaml, "First-order MAML", "Finn et al. 2017, arXiv 1703.03400, section 5.2", "jobs/omniglot.py:fomaml"
    ),
    "anil": Preset(anil, "ANIL", "Raghu et al. 2020, arXiv 1909.09157", "jobs/omniglot.py:anil"),
    "meta_sgd": Preset(meta_sgd, "Meta-SGD", "Li et al. 2017, arXiv 1707.09835", "jobs/omniglot.py:meta_sgd"),
    "reptile": Preset(reptile, "Reptile", "Nichol et al. 2018, arXiv 1803.02999", "jobs/omniglot.py:reptile"),
    "imaml": Preset(imaml, "iMAML", "Rajeswaran et al. 2019, arXiv 1909.04630", "jobs/omniglot.py:imaml"),
    "imaml_hf": Preset(
        imaml_hf, "Hessian-free iMAML", "Rajeswaran et al. 2019, arXiv 1909.04630", "jobs/omniglot.py:imaml_hf"
    ),
    "protonet": Preset(protonet, "ProtoNet", "Snell et al. 2017, arXiv 1703.05175", "jobs/omniglot.py:protonet"),
    "proto_maml": Preset(
        proto_maml, "Proto-MAML", "Triantafillou et al. 2020, arXiv 1903.03096", "jobs/intents.py:proto_maml"
    ),
    "label_words": Preset(
        label_words, "Label words", "Schick & Schuetze 2021, arXiv 2001.07676", "jobs/label_words.py:few_shot"
    ),
    "lstm": Preset(lstm, "LSTM", "Santoro et al. 2016, arXiv 1605.06065", "jobs/omniglot.py:lstm"),
    "neural_process": Preset(
        neural_process,
        "Conditional neural process",
        "Garnelo et al. 2018, arXiv 1807.01613",
        "jobs/sinusoid.py:neural_process",
    ),
    "in_context": Preset(
        in_context, "In-context transformer", "Kirsch et al. 2022, arXiv 2212.04458", "jobs/omniglot.py:in_context"
    ),
    "pretrain": Preset(
        pretrain, "Pre-training, fine-tuning", "joint training as the baseline", "jobs/omniglot.py:pretrain"
    ),
    "matching": Preset(
        matching, "Matching network", "Vinyals et al. 2016, arXiv 1606.04080", "jobs/omniglot.py:matching"
    ),
    "knn": Preset(knn, "Weighted nearest neighbours", "Goldberger et al. 2004 (NIPS 17)", "jobs/omniglot.py:knn"),
    "r2d2": Preset(r2d2, "R2-D2, ridge head", "Bertinetto et al. 2019, arXiv 1805.08136", "jobs/omniglot.py:r2d2"),
    "nil": Preset(nil, "NIL", "Raghu et al. 2020, arXiv 1909.09157, section 5", "jobs/omniglot.py:nil"),
    "multitask": Preset(
        multitask,
        "Multitask training",
        "Raghu et al. 2020, arXiv 1909.09157, section 6",
        "jobs/feature_reuse.py:multitask",
    ),
    "boil": Preset(boil, "BOIL", "Oh et al. 2021, arXiv 2008.08882", "jobs/omniglot.py:boil"),
    "maml_pp": Preset(maml_pp, "MAML++", "Antoniou et al. 2019, arXiv 1810.09502", "jobs/omniglot.py:maml_pp"),
    "cavia": Preset(cavia, "CAVIA", "Zintgraf et al. 2019, arXiv 1810.03642", "jobs/sinusoid.py:cavia"),
    "weight_generator": Preset(
        weight_generator,
        "Weight generator",
        "Qiao et al. 2018, arXiv 1706.03466",
        "jobs/parameter_prediction.py:weight_generator",
    ),
    "film": Preset(
        film, "FiLM from the support set", "Requeima et al. 2019, arXiv 1906.07697", "jobs/parameter_prediction.py:film"
    ),
    "hyperparameters": Preset(
        hyperparameters,
        "Learned hyperparameters",
        "Franceschi et al. 2018, arXiv 1806.04910",
        "jobs/inner_problem.py:hyperparameters",
    ),
    "learned_loss": Preset(
        learned_loss,
        "Learned inner loss (ML3)",
        "Bechtle et al. 2021, arXiv 1906.05374",
        "jobs/inner_problem.py:learned_loss",
    ),
    "reweight": Preset(
        reweight,
        "Learned example weights",
        "Shu et al. 2019, arXiv 1902.07379",
        "jobs/inner_problem.py:reweight",
    ),
    "darts": Preset(
        darts, "Cell of mixed operations (DARTS)", "Liu et al. 2019, arXiv 1806.09055", "jobs/architecture.py:darts"
    ),
    "oml": Preset(oml, "OML", "Javed & White 2019, arXiv 1905.12588", "jobs/continual.py:oml"),
    "anml": Preset(anml, "ANML", "Beaulieu et al. 2020, arXiv 2002.09571", "jobs/continual.py:anml"),
    "learned_optimizer": Preset(
        learned_optimizer,
        "Learned optimizer, LSTM",
        "Andrychowicz et al. 2016, arXiv 1606.04474",
        "jobs/learned_optimizers.py:quadratics",
    ),
    "evolved_optimizer": Preset(
        evolved_optimizer,
        "Learned optimizer, PES",
        "Vicol et al. 2021, arXiv 2112.13835; Metz et al. 2022, arXiv 2203.11860",
        "jobs/learned_optimizers.py:mlp",
    ),
    "target_only": _transfer(target_only, "Target only", "training without transfer as the baseline"),
    "joint": _transfer(joint, "Joint training", "Caruana 1997 (Machine Learning 28)"),
    "fine_tuning": _transfer(fine_tuning, "Fine-tuning", "Yosinski et al. 2014, arXiv 1411.1792"),
    "linear_probe": _transfer(linear_probe, "Linear probe", "Alain & Bengio 2016, arXiv 1610.01644"),
    "lp_ft": _transfer(lp_ft, "LP-FT", "Kumar et al. 2022, arXiv 2202.10054"),
    "l2sp": _transfer(l2sp, "L2-SP", "Li et al. 2018, arXiv 1802.01483"),
    "surgical": _transfer(surgical, "Surgical fine-tuning", "Lee et al. 2023, arXiv 2210.11466"),
    "auto_rgn": _transfer(auto_rgn, "Auto-RGN", "Lee et al. 2023, arXiv 2210.11466, section 4"),
    "merlin": _transfer(merlin, "MeRLin", "Liu et al. 2020, arXiv 2011.01418"),
    "maml_rl": _reinforcement(maml_rl, "MAML-RL", "Finn et al. 2017, arXiv 1703.03400, section 5.3"),
    "fomaml_rl": _reinforcement(fomaml_rl, "First-order MAML-RL", "Finn et al. 2017, arXiv 1703.03400"),
    "anil_rl": _reinforcement(anil_rl, "ANIL-RL", "Raghu et al. 2020, arXiv 1909.09157, section 4.2"),
    "rl2": _reinforcement(rl2, "RL2", "Duan et al. 2016, arXiv 1611.02779; Wang et al. 2016, arXiv 1611.05763"),
    "bn_adapt": Preset(
        bn_adapt, "BN-adapt", "Nado et al. 2020, arXiv 2006.10963; Schneider et al. 2020", "jobs/test_time.py:bn_adapt"
    ),
    "tent": Preset(tent, "TENT", "Wang et al. 2021, arXiv 2006.10726", "jobs/test_time.py:tent"),
    "ttt": Preset(ttt, "TTT", "Sun et al. 2020, arXiv 1909.13231", "jobs/test_time.py:ttt"),
    "deep_coral": Preset(
        deep_coral, "Deep CORAL", "Sun & Saenko 2016, arXiv 1607.01719", "jobs/test_time.py:deep_coral"
    ),
    "dann": Preset(dann, "DANN", "Ganin et al. 2016, arXiv 1505.07818", "jobs/test_time.py:dann"),
}


def method(name: str, **settings: object) -> AlgorithmConfig:
    """A preset by name; `settings` are its arguments.

    Raises:
        UserError: There is no such preset.
    """
    if name not in METHODS:
        raise UserError(f"unknown method '{name}'", where="method", allowed=nearest(name, METHODS))
    return METHODS[name].make(**settings)
