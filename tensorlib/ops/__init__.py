"""Operations by family: each function is the one place of its signature, text, forward and
backward.
"""
