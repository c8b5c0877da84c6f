"""The paper's toy problem: which settings give its Table 1."""
