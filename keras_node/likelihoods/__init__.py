"""Likelihoods `p(x | z)` of observations, given the decoder's outputs."""

from keras_node.likelihoods.base import Likelihood
from keras_node.likelihoods.point_process import PoissonProcessLikelihood
from keras_node.likelihoods.pointwise import (
    BernoulliLikelihood,
    CustomLikelihood,
    NormalLikelihood,
    PoissonLikelihood,
    get,
    serialize,
)

__all__ = [
    "BernoulliLikelihood",
    "CustomLikelihood",
    "Likelihood",
    "NormalLikelihood",
    "PoissonLikelihood",
    "PoissonProcessLikelihood",
    "get",
    "serialize",
]
