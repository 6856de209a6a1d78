"""What does not pass, and why: label of an entry -> kind of check -> reason.

A row that passes fails its test.
"""

HALF_COMPLEX = "NumPy has no complex of half precision (complex32)"

KNOWN: dict[str, dict[str, str]] = {
    "chalf": {"value": HALF_COMPLEX},
    "complex": {"value": HALF_COMPLEX},
    "view_as_complex": {"value": HALF_COMPLEX},
    "matrix_exp": {"value": "PyTorch gives NaN for these in float16; ours are finite"},
    "nn.functional.linear_cross_entropy.chunked": {
        "second": "PyTorch's chunked loss has no second derivative and does not say so; ours has"
    },
    "nn.functional.linear_cross_entropy.chunked_none": {
        "second": "PyTorch's chunked loss has no second derivative; ours has"
    },
}
