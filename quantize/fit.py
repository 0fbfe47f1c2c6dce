from quantize.checkpoint import Linear, linears_of, matches, tensors
def linears(source): return linears_of(tensors(source))
def resolve_ignore(patterns, found):
    return {one.name for one in found if any(matches(p, one.name) for p in patterns)}
