"""How a flow arrives at the data: spectra, exponents, perturbations and local dimension near t = 1."""
