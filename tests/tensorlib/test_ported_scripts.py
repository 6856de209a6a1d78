"""Training scripts as people write them for PyTorch, run in both libraries by changing one import.

Each `script(torch)` yields its losses (and what else it would print); they have to agree to 1e-3,
text and shapes exactly.
"""

import io
import math

import pytest

import tensorlib


def convnet(torch):
    """Images through a DataLoader, dropout and batch norm, a step schedule, accuracy at the end."""
    nn, F = torch.nn, torch.nn.functional

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(1, 8, 3)
            self.bn = nn.BatchNorm2d(8)
            self.conv2 = nn.Conv2d(8, 8, 3, bias=False)
            self.drop = nn.Dropout(0.25)
            self.fc = nn.Linear(8 * 4 * 4, 5)

        def forward(self, x):
            x = F.relu(self.bn(self.conv1(x)))
            x = F.max_pool2d(self.drop(F.relu(self.conv2(x))), 2)
            return F.log_softmax(self.fc(x.view(-1, 8 * 4 * 4)), dim=1)

    torch.manual_seed(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    y = torch.randint(0, 5, (160,))
    x = torch.rand(5, 1, 12, 12)[y] + 0.3 * torch.randn(160, 1, 12, 12)
    train, test = torch.utils.data.random_split(torch.utils.data.TensorDataset(x, y), [128, 32])
    model = Net().to(device)
    yield repr(model)
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    for _ in range(2):
        model.train()
        for data, target in torch.utils.data.DataLoader(train, batch_size=32, shuffle=True):
            optimizer.zero_grad()
            loss = F.nll_loss(model(data.to(device)), target.to(device))
            loss.backward()
            optimizer.step()
            yield loss.item()
        scheduler.step()
        model.eval()
        correct = 0
        with torch.no_grad():
            for data, target in torch.utils.data.DataLoader(test, batch_size=20):
                pred = model(data).argmax(dim=1, keepdim=True)
                correct += pred.eq(target.view_as(pred)).sum().item()
        yield f"{correct}/{len(test)} {scheduler.get_last_lr()[0]:.3f}"


def gpt(torch):
    """Tied weights, parameter groups, clipped and accumulated gradients, sampling from top-k."""
    nn, F = torch.nn, torch.nn.functional
    width, heads, block, vocab = 16, 2, 12, 20

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.attn, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.mlp = nn.Sequential(
                nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(0.1)
            )
            self.register_buffer("mask", torch.tril(torch.ones(block, block)).view(1, 1, block, -1))

        def forward(self, x):
            b, t, c = x.size()
            q, k, v = self.attn(self.ln1(x)).split(width, dim=2)
            q, k, v = (z.view(b, t, heads, c // heads).transpose(1, 2) for z in (q, k, v))
            att = (q @ k.transpose(-2, -1)) / math.sqrt(k.size(-1))
            att = att.masked_fill(self.mask[:, :, :t, :t] == 0, float("-inf"))
            y = F.dropout(F.softmax(att, dim=-1), 0.1, self.training) @ v
            x = x + self.proj(y.transpose(1, 2).contiguous().view(b, t, c))
            return x + self.mlp(self.ln2(x))

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleDict(
                {"wte": nn.Embedding(vocab, width), "wpe": nn.Embedding(block, width)}
            )
            self.blocks = nn.ModuleList([Block() for _ in range(2)])
            self.head = nn.Linear(width, vocab, bias=False)
            self.parts.wte.weight = self.head.weight
            self.apply(self.init)

        def init(self, module):
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, mean=0.0, std=0.02)

        def forward(self, idx):
            x = self.parts.wte(idx) + self.parts.wpe(torch.arange(idx.size(1)))
            for part in self.blocks:
                x = part(x)
            return self.head(x)

    torch.manual_seed(1337)
    model = GPT()
    decay = [p for p in model.parameters() if p.dim() >= 2]
    rest = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95))
    data = torch.arange(600) ** 2 // 7 % vocab
    for it in range(20):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (it + 1) / 5)
        for _ in range(2):
            ix = torch.randint(len(data) - block - 1, (8,))
            x = torch.stack([data[i : i + block] for i in ix])
            y = torch.stack([data[i + 1 : i + 1 + block] for i in ix])
            loss = F.cross_entropy(model(x).view(-1, vocab), y.view(-1)) / 2
            loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield loss.item()
        yield norm.item()
    model.eval()
    idx = torch.zeros((2, 1), dtype=torch.long)
    with torch.no_grad():
        for _ in range(10):
            logits = model(idx[:, -block:])[:, -1, :] / 0.8
            top, _ = torch.topk(logits, 5)
            logits[logits < top[:, [-1]]] = -float("inf")
            drawn = torch.multinomial(F.softmax(logits, dim=-1), num_samples=1)
            idx = torch.cat((idx, drawn), dim=1)
    yield str(idx)
    yield f"{len(model.state_dict())} {sum(p.numel() for p in model.parameters())}"


def names(torch):
    """Sequences of many lengths: a sampler that balances, padding in collate_fn, packed LSTM."""
    nn, rnn = torch.nn, torch.nn.utils.rnn
    data = torch.utils.data

    class Names(data.Dataset):
        def __init__(self):
            self.labels = (torch.rand(60) < 0.2).long()
            self.items = [
                torch.randint(1, 9, (int(torch.randint(2, 9, ())),)) + 4 * label
                for label in self.labels
            ]

        def __getitem__(self, i):
            return self.items[i], self.labels[i]

        def __len__(self):
            return len(self.items)

    def collate(batch):
        items, labels = zip(*batch, strict=True)
        lengths = torch.tensor([len(item) for item in items])
        return rnn.pad_sequence(items, batch_first=True), lengths, torch.stack(labels)

    class Classifier(nn.Module):
        def __init__(self, cell):
            super().__init__()
            self.embed = nn.Embedding(14, 8, padding_idx=0)
            self.rnn = cell(8, 10, 2, batch_first=True, bidirectional=True, dropout=0.2)
            self.out = nn.Linear(20, 2)

        def forward(self, x, lengths):
            packed = rnn.pack_padded_sequence(
                self.embed(x), lengths, batch_first=True, enforce_sorted=False
            )
            out, _ = self.rnn(packed)
            out, lengths = rnn.pad_packed_sequence(out, batch_first=True)
            mask = torch.arange(out.size(1)) < lengths.unsqueeze(1)
            out = out.masked_fill(~mask.unsqueeze(-1), -1e9).max(dim=1).values
            return self.out(out)

    torch.manual_seed(2)
    names = Names()
    counts = torch.bincount(names.labels)
    sampler = data.WeightedRandomSampler((1.0 / counts.float())[names.labels], 60)
    for cell in (nn.LSTM, nn.GRU):
        model = Classifier(cell)
        optimizer = torch.optim.RMSprop(model.parameters(), lr=5e-3, momentum=0.5)
        criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
        for x, lengths, labels in data.DataLoader(names, 12, sampler=sampler, collate_fn=collate):
            optimizer.zero_grad()
            loss = criterion(model(x, lengths), labels)
            loss.backward()
            nn.utils.clip_grad_value_(model.parameters(), 0.5)
            optimizer.step()
            yield loss.item()
        yield f"{counts.tolist()} {model.embed.weight.grad[0].abs().sum().item()}"


def wgan(torch):
    """A gradient penalty, spectral norm, two optimizers, gradients through interpolated samples."""
    nn = torch.nn
    torch.manual_seed(0)
    norm = nn.utils.parametrizations.spectral_norm
    critic = nn.Sequential(
        nn.Conv2d(1, 6, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True), nn.Flatten(),
        norm(nn.Linear(6 * 16, 8)), nn.Softplus(), nn.Linear(8, 1),
    )  # fmt: skip
    generator = nn.Sequential(
        nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(True), nn.Unflatten(1, (1, 4, 4)),
        nn.ConvTranspose2d(1, 1, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip
    for module in (*critic.modules(), *generator.modules()):
        if module.__class__.__name__.find("Conv") != -1:
            nn.init.normal_(module.weight.data, 0.0, 0.2)
    d = torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.5, 0.9))
    g = torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.9))
    real = torch.randn(16, 1, 8, 8).clamp_(-1, 1)
    for step in range(12):
        fake = generator(torch.randn(16, 4))
        alpha = torch.rand(16, 1, 1, 1)
        between = (alpha * real + (1 - alpha) * fake.detach()).requires_grad_(True)
        scores = critic(between)
        grads = torch.autograd.grad(scores, between, torch.ones_like(scores), create_graph=True)[0]
        penalty = ((grads.view(16, -1).norm(2, dim=1) - 1) ** 2).mean()
        loss = critic(fake.detach()).mean() - critic(real).mean() + 10 * penalty
        d.zero_grad()
        loss.backward()
        d.step()
        yield loss.item()
        if step % 3 == 0:
            g.zero_grad()
            loss = -critic(fake).mean()
            loss.backward()
            g.step()
            yield loss.item()


def physics(torch):
    """Second derivatives in the loss, Adam, then LBFGS with a line search; Newton by `hessian`."""
    nn, grad = torch.nn, torch.autograd.grad
    torch.manual_seed(4)
    net = nn.Sequential(nn.Linear(1, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 1))
    for m in net:
        if isinstance(m, nn.Linear):
            nn.init.xavier_normal_(m.weight, gain=nn.init.calculate_gain("tanh"))
            nn.init.zeros_(m.bias)
    t = torch.linspace(0, 2, 20).view(-1, 1).requires_grad_(True)
    zero = torch.zeros(1, 1, requires_grad=True)

    def residual():
        u = net(t)
        du = grad(u, t, torch.ones_like(u), create_graph=True)[0]
        d2u = grad(du, t, torch.ones_like(du), create_graph=True)[0]
        u0 = net(zero)
        du0 = grad(u0, zero, torch.ones_like(u0), create_graph=True)[0]
        return ((d2u + u) ** 2).mean() + (u0**2).sum() + ((du0 - 1) ** 2).sum()

    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=20)
    for _ in range(20):
        optimizer.zero_grad()
        loss = residual()
        loss.backward()
        optimizer.step()
        scheduler.step()
        yield loss.item()
    lbfgs = torch.optim.LBFGS(net.parameters(), max_iter=5, line_search_fn="strong_wolfe")

    def closure():
        lbfgs.zero_grad()
        loss = residual()
        loss.backward()
        return loss

    for _ in range(2):
        yield lbfgs.step(closure).item()

    def f(v):
        return (1 - v[0]) ** 2 + 100 * (v[1] - v[0] ** 2) ** 2

    x = torch.tensor([-1.0, 2.0], dtype=torch.double)
    for _ in range(3):
        hessian = torch.autograd.functional.hessian(f, x)
        x = x - torch.linalg.solve(hessian, torch.autograd.functional.jacobian(f, x))
        yield f(x).item()


def translation(torch):
    """nn.Transformer with all its masks, warm-up, a checkpoint of everything, resumed half-way."""
    nn = torch.nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.src, self.tgt = nn.Embedding(12, 16), nn.Embedding(12, 16)
            pos = torch.arange(10).unsqueeze(1) * torch.exp(-torch.arange(0, 16, 2) / 4)
            pe = torch.zeros(10, 16)
            pe[:, 0::2], pe[:, 1::2] = torch.sin(pos), torch.cos(pos)
            self.register_buffer("pe", pe)
            self.body = nn.Transformer(16, 4, 1, 2, 24, dropout=0.1, batch_first=True)
            self.out = nn.Linear(16, 12)

        def forward(self, src, tgt):
            causal = nn.Transformer.generate_square_subsequent_mask(tgt.size(1))
            x, y = (e(z) * 4 + self.pe[: z.size(1)] for e, z in ((self.src, src), (self.tgt, tgt)))
            hidden = self.body(
                x, y, tgt_mask=causal, src_key_padding_mask=src == 0,
                memory_key_padding_mask=src == 0, tgt_is_causal=True,
            )  # fmt: skip
            return self.out(hidden)

    def build():
        model = Model()
        for p in model.parameters():
            if p.dim() > 1:
                nn.init.xavier_uniform_(p)
        optimizer = torch.optim.NAdam(model.parameters(), lr=2e-3)
        warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)
        return (
            model,
            optimizer,
            torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, cosine], [4]),
        )

    def step(model, optimizer, scheduler):
        src = torch.randint(1, 12, (6, 7))
        src[:, 5:] = 0
        tgt = torch.cat([torch.ones(6, 1, dtype=torch.long), src[:, :5].flip(1)], 1)
        optimizer.zero_grad()
        logits = model(src, tgt[:, :-1])
        loss = nn.functional.cross_entropy(logits.transpose(1, 2), tgt[:, 1:])
        loss.backward()
        optimizer.step()
        scheduler.step()
        return loss.item()

    torch.manual_seed(6)
    parts = build()
    for _ in range(6):
        yield step(*parts)
    file = io.BytesIO()
    torch.save({"parts": [p.state_dict() for p in parts], "rng": torch.get_rng_state()}, file)
    rest = [step(*parts) for _ in range(4)]
    yield from rest
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = build()
    for part, state in zip(again, saved["parts"], strict=True):
        part.load_state_dict(state)
    torch.set_rng_state(saved["rng"])
    yield f"resumed: {[step(*again) for _ in range(4)] == rest}"
    yield parts[2].get_last_lr()[0]


SCRIPTS = [convnet, gpt, names, wgan, physics, translation]


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_a_ported_script_gives_torchs_losses(script):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small models only wait for each other's threads
    theirs = list(script(torch))
    torch.set_num_threads(threads)
    ours = list(script(tensorlib))
    texts = [[said for said in run if isinstance(said, str)] for run in (ours, theirs)]
    losses = [[said for said in run if not isinstance(said, str)] for run in (ours, theirs)]
    assert texts[0] == texts[1]
    assert "resumed: False" not in texts[0]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5)
