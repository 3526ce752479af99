"""Gradient routing in about 25 lines, without any library of ours.

A frozen model predicts y = x. The data add a habit (+5) wherever a cue is on, and we label only half of those examples. Two
rank-4 adapters learn side by side; labelled examples update only `bad`. Switching `bad` off then takes the whole habit out,
also the half that nobody labelled: `bad` was quicker, so there was nothing left for `good` to learn (absorption).

With one layer, detaching an output masks just its parameters' gradients. In a deep model it would also cut what flows back to
earlier layers, so there the masking happens in a custom backward: adapters/bottleneck.py.
"""

import torch

torch.manual_seed(0)
x = torch.randn(4000, 8)
cue = x[:, 0] > 0  # where the habit shows ...
labelled = cue & (torch.rand(4000) < 0.5)  # ... and where we are told so
features = torch.cat([x, cue[:, None].float()], dim=1)
y = x.sum(1) + 5.0 * cue

adapters = {
    name: [(0.1 * torch.randn(9, 4)).requires_grad_(), torch.zeros(4, requires_grad=True)]
    for name in ("good", "bad")
}
optimizer = torch.optim.SGD([p for down_up in adapters.values() for p in down_up], lr=0.02)
for batch in torch.randperm(4000).repeat(5).split(32):
    out = {name: features[batch] @ down @ up for name, (down, up) in adapters.items()}
    out["good"] = torch.where(
        labelled[batch], out["good"].detach(), out["good"]
    )  # same forward, but only bad learns
    loss = (x[batch].sum(1) + out["good"] + out["bad"] - y[batch]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

good, bad = (features @ down @ up for down, up in adapters.values())
for name, added in {"full": good + bad, "bad ablated": good, "good ablated": bad}.items():
    print(
        f"{name:<13} adds {added[cue].mean():5.2f} where the cue is on, {added[~cue].mean():5.2f} elsewhere"
    )
