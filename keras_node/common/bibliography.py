"""The publications of what this package implements, as BibTeX."""

_TEXT = r"""
@article{bogacki1989,
  author = {Bogacki, P. and Shampine, L. F.},
  title = {A 3(2) pair of {R}unge-{K}utta formulas},
  journal = {Applied Mathematics Letters},
  volume = {2}, number = {4}, pages = {321--325}, year = {1989},
  url = {https://doi.org/10.1016/0893-9659(89)90079-7},
}

@inproceedings{chen2018,
  author = {Chen, Ricky T. Q. and Rubanova, Yulia and Bettencourt, Jesse and
    Duvenaud, David},
  title = {Neural Ordinary Differential Equations},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {31}, year = {2018},
  url = {https://arxiv.org/abs/1806.07366},
}

@inproceedings{chen2021,
  author = {Chen, Ricky T. Q. and Amos, Brandon and Nickel, Maximilian},
  title = {Learning Neural Event Functions for Ordinary Differential Equations},
  booktitle = {International Conference on Learning Representations},
  year = {2021},
  url = {https://arxiv.org/abs/2011.03902},
}

@article{dormand1980,
  author = {Dormand, J. R. and Prince, P. J.},
  title = {A family of embedded {R}unge-{K}utta formulae},
  journal = {Journal of Computational and Applied Mathematics},
  volume = {6}, number = {1}, pages = {19--26}, year = {1980},
  url = {https://doi.org/10.1016/0771-050X(80)90013-3},
}

@inproceedings{dupont2019,
  author = {Dupont, Emilien and Doucet, Arnaud and Teh, Yee Whye},
  title = {Augmented Neural {ODE}s},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {32}, year = {2019},
  url = {https://arxiv.org/abs/1904.01681},
}

@inproceedings{finlay2020,
  author = {Finlay, Chris and Jacobsen, J{\"o}rn-Henrik and Nurbekyan, Levon
    and Oberman, Adam M.},
  title = {How to Train Your Neural {ODE}: the World of {J}acobian and Kinetic
    Regularization},
  booktitle = {International Conference on Machine Learning},
  year = {2020},
  url = {https://arxiv.org/abs/2002.02798},
}

@inproceedings{grathwohl2019,
  author = {Grathwohl, Will and Chen, Ricky T. Q. and Bettencourt, Jesse and
    Sutskever, Ilya and Duvenaud, David},
  title = {{FFJORD}: Free-Form Continuous Dynamics for Scalable Reversible
    Generative Models},
  booktitle = {International Conference on Learning Representations},
  year = {2019},
  url = {https://arxiv.org/abs/1810.01367},
}

@article{griewank2000,
  author = {Griewank, Andreas and Walther, Andrea},
  title = {Algorithm 799: revolve: an implementation of checkpointing for the
    reverse or adjoint mode of computational differentiation},
  journal = {ACM Transactions on Mathematical Software},
  volume = {26}, number = {1}, pages = {19--45}, year = {2000},
  url = {https://doi.org/10.1145/347837.347846},
}

@article{hager2000,
  author = {Hager, William W.},
  title = {{R}unge-{K}utta methods in optimal control and the transformed
    adjoint system},
  journal = {Numerische Mathematik},
  volume = {87}, number = {2}, pages = {247--282}, year = {2000},
  url = {https://doi.org/10.1007/s002110000178},
}

@book{hairer1993,
  author = {Hairer, Ernst and N{\o}rsett, Syvert P. and Wanner, Gerhard},
  title = {Solving Ordinary Differential Equations {I}: Nonstiff Problems},
  edition = {Second}, publisher = {Springer}, year = {1993},
  url = {https://doi.org/10.1007/978-3-540-78862-1},
}

@article{hutchinson1990,
  author = {Hutchinson, M. F.},
  title = {A stochastic estimator of the trace of the influence matrix for
    {L}aplacian smoothing splines},
  journal = {Communications in Statistics - Simulation and Computation},
  volume = {19}, number = {2}, pages = {433--450}, year = {1990},
  url = {https://doi.org/10.1080/03610919008812866},
}

@inproceedings{kidger2020,
  author = {Kidger, Patrick and Morrill, James and Foster, James and Lyons,
    Terry},
  title = {Neural Controlled Differential Equations for Irregular Time Series},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {33}, year = {2020},
  url = {https://arxiv.org/abs/2005.08926},
}

@inproceedings{kidger2021,
  author = {Kidger, Patrick and Chen, Ricky T. Q. and Lyons, Terry},
  title = {``{H}ey, that's not an {ODE}'': Faster {ODE} Adjoints via Seminorms},
  booktitle = {International Conference on Machine Learning},
  year = {2021},
  url = {https://arxiv.org/abs/2009.09457},
}

@inproceedings{lipman2023,
  author = {Lipman, Yaron and Chen, Ricky T. Q. and Ben-Hamu, Heli and Nickel,
    Maximilian and Le, Matthew},
  title = {Flow Matching for Generative Modeling},
  booktitle = {International Conference on Learning Representations},
  year = {2023},
  url = {https://arxiv.org/abs/2210.02747},
}

@inproceedings{meyer2021,
  author = {Meyer, Raphael A. and Musco, Cameron and Musco, Christopher and
    Woodruff, David P.},
  title = {{Hutch++}: Optimal Stochastic Trace Estimation},
  booktitle = {Symposium on Simplicity in Algorithms},
  pages = {142--155}, year = {2021},
  url = {https://arxiv.org/abs/2010.09649},
}

@misc{morrill2021,
  author = {Morrill, James and Kidger, Patrick and Yang, Lingyi and Lyons,
    Terry},
  title = {Neural Controlled Differential Equations for Online Prediction
    Tasks},
  year = {2021},
  url = {https://arxiv.org/abs/2106.11028},
}

@inproceedings{rubanova2019,
  author = {Rubanova, Yulia and Chen, Ricky T. Q. and Duvenaud, David},
  title = {Latent Ordinary Differential Equations for Irregularly-Sampled
    Time Series},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {32}, year = {2019},
  url = {https://arxiv.org/abs/1907.03907},
}

@article{shampine1986,
  author = {Shampine, Lawrence F.},
  title = {Some practical {R}unge-{K}utta formulas},
  journal = {Mathematics of Computation},
  volume = {46}, number = {173}, pages = {135--150}, year = {1986},
  url = {https://doi.org/10.1090/S0025-5718-1986-0815836-3},
}

@article{shampine1997,
  author = {Shampine, Lawrence F. and Reichelt, Mark W.},
  title = {The {MATLAB} {ODE} Suite},
  journal = {SIAM Journal on Scientific Computing},
  volume = {18}, number = {1}, pages = {1--22}, year = {1997},
  url = {https://doi.org/10.1137/S1064827594276424},
}

@article{steinebach2023,
  author = {Steinebach, Gerd},
  title = {Construction of {R}osenbrock-{W}anner method {Rodas5P} and numerical
    benchmarks within the {J}ulia Differential Equations package},
  journal = {BIT Numerical Mathematics},
  volume = {63}, number = {2}, year = {2023},
  url = {https://doi.org/10.1007/s10543-023-00967-x},
}

@article{tong2024,
  author = {Tong, Alexander and Fatras, Kilian and Malkin, Nikolay and Huguet,
    Guillaume and Zhang, Yanlei and Rector-Brooks, Jarrid and Wolf, Guy and
    Bengio, Yoshua},
  title = {Improving and generalizing flow-based generative models with
    minibatch optimal transport},
  journal = {Transactions on Machine Learning Research},
  year = {2024},
  url = {https://arxiv.org/abs/2302.00482},
}

@article{tsitouras2011,
  author = {Tsitouras, Ch.},
  title = {{R}unge-{K}utta pairs of order 5(4) satisfying only the first column
    simplifying assumption},
  journal = {Computers \& Mathematics with Applications},
  volume = {62}, number = {2}, pages = {770--775}, year = {2011},
  url = {https://doi.org/10.1016/j.camwa.2011.06.002},
}

@inproceedings{wu2018,
  author = {Wu, Yuxin and He, Kaiming},
  title = {Group Normalization},
  booktitle = {European Conference on Computer Vision},
  year = {2018},
  url = {https://arxiv.org/abs/1803.08494},
}

@inproceedings{zhuang2020,
  author = {Zhuang, Juntang and Dvornek, Nicha and Li, Xiaoxiao and Tatikonda,
    Sekhar and Papademetris, Xenophon and Duncan, James},
  title = {Adaptive Checkpoint Adjoint Method for Gradient Estimation in Neural
    {ODE}},
  booktitle = {International Conference on Machine Learning},
  year = {2020},
  url = {https://arxiv.org/abs/2006.02493},
}
"""


def _key_of(entry):
    return entry.split("{", 1)[1].split(",", 1)[0]


# From keys, such as "tsitouras2011", to entries.
ENTRIES = {_key_of(entry): entry for entry in _TEXT.strip().split("\n\n")}
