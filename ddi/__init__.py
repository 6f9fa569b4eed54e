"""Descent directions in adversarial training: attacks, min-norm solver, Danskin's quantities,
product direction.
"""

from ddi.attacks import (
    FAST,
    FGSM,
    PGA,
    PGD,
    Attack,
    as_attack,
    cross_entropy,
    inverse_time,
    margin_loss,
)
from ddi.beta import BETA
from ddi.danskin import (
    Certificate,
    SteepestDescent,
    certify,
    directional_derivative,
    gram_matrix,
    one_sided,
    steepest_descent,
    two_sided,
)
from ddi.data import Dataset, cifar10, crop_and_flip, digits, load_data, mnist
from ddi.descent import RULES, Rule, Step, descent_rule
from ddi.evaluate import (
    Accuracy,
    autoattack_accuracy,
    clean_accuracy,
    masking_signs,
    robust_accuracy,
)
from ddi.experiment import Run, read_experiment
from ddi.losses import Objective
from ddi.models import MLP, Normalize, ResNet18, SmallNet
from ddi.objectives import CURE, ELLE, KL, LLR, MART, TRADES, AdaptiveELLE, GradAlign, Penalty
from ddi.product import (
    ProductPoint,
    chunk_gradients,
    per_sample_gradients,
    product_point,
    sample_losses,
)
from ddi.record import Record, RunWriter, provenance, read_record, read_records
from ddi.samplers import Sampler
from ddi.sharpness import SAM, SAMPa
from ddi.simplices import project_simplex
from ddi.solver import MinNormPoint, bundle, min_norm_point, min_norm_product
from ddi.state import assign_gradient, frozen
from ddi.threat import L1, L2, LInf, Threat, threat_model
from ddi.trainer import Phase, Setting, train

__version__ = "0.1.0"

__all__ = [
    "BETA", "CURE", "ELLE", "FAST", "FGSM", "KL", "L1", "L2", "LLR", "MART", "MLP", "PGA", "PGD",
    "RULES", "SAM", "TRADES", "Accuracy", "AdaptiveELLE", "Attack", "Certificate", "Dataset",
    "GradAlign", "LInf", "MinNormPoint", "Normalize", "Objective", "Penalty", "Phase",
    "ProductPoint", "Record", "ResNet18", "Rule", "Run", "RunWriter", "SAMPa", "Sampler", "Setting",
    "SmallNet", "SteepestDescent", "Step", "Threat", "as_attack", "assign_gradient",
    "autoattack_accuracy", "bundle", "certify", "chunk_gradients", "cifar10", "clean_accuracy",
    "crop_and_flip", "cross_entropy", "descent_rule", "digits", "directional_derivative", "frozen",
    "gram_matrix", "inverse_time", "load_data", "margin_loss", "masking_signs", "min_norm_point",
    "min_norm_product", "mnist", "one_sided", "per_sample_gradients", "product_point",
    "project_simplex", "provenance", "read_experiment", "read_record", "read_records",
    "robust_accuracy", "sample_losses", "steepest_descent", "threat_model", "train", "two_sided",
]  # fmt: skip
