"""The laboratory of mmpoison: the paper, the matrix of attacks and defences, and baselines from other papers."""
