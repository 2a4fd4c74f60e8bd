"""The latent ODE: a generative model of irregular time series."""
