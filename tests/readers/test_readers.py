"""What each program makes of an adapter, for every property that one of them refuses or reads wrongly."""

import json

import pytest

np = pytest.importorskip("numpy")

from adapter_folders import PREFIX, factors, write_adapter, write_tensors  # noqa: E402

from lora_ns.errors import LoransError  # noqa: E402
from lora_ns.readers import READERS, read_adapter  # noqa: E402
from lora_ns.services.check_adapter import check_adapter  # noqa: E402

Q, DOWN = f"{PREFIX}model.layers.0.self_attn.q_proj", f"{PREFIX}model.layers.0.mlp.down_proj"
ONE = np.ones((16,), "f4")


def with_tensors(**more):
    return {**factors(), **{key.replace("__", "."): value for key, value in more.items()}}


def without(part):
    return {key: value for key, value in factors().items() if key != f"{Q}.{part}.weight"}


def extra(name, shape=(16,)):
    return {**factors(), f"{PREFIX}{name}": np.ones(shape, "f4")}


ALL = "vllm llama.cpp ollama transformers peft"
SERVERS = "vllm llama.cpp ollama"
PLANTED = [
    # what is planted, how it is built, readers that refuse it, readers that read it wrongly
    ("nothing", {}, "", ""),
    ("float16", {"dtype": "F16"}, "", ""),
    ("bfloat16", {"dtype": "BF16"}, "", ""),
    ("rsLoRA", {"use_rslora": True}, "", "llama.cpp ollama"),
    ("rsLoRA of rank 1", {"use_rslora": True, "r": 1, "tensors": factors(1)}, "", ""),
    ("alpha_pattern", {"alpha_pattern": {"down_proj": 32}}, "", SERVERS),
    ("alpha_pattern without effect", {"alpha_pattern": {"down_proj": 8}}, "", ""),
    ("rank_pattern", {"rank_pattern": {"down_proj": 2}, "tensors": factors(ranks={"down_proj": 2})}, "", "vllm"),
    ("no alpha", {"lora_alpha": None, "r": 8, "tensors": factors(8)}, "vllm llama.cpp", ""),
    ("no alpha, another rank", {"lora_alpha": None}, "vllm llama.cpp", "ollama"),
    ("an alpha below 0", {"lora_alpha": -8}, "ollama", ""),
    ("a fraction as alpha", {"lora_alpha": 8.5}, "ollama", ""),
    ("alpha as a float", {"lora_alpha": 8.0}, "ollama", ""),
    ("alpha 0", {"lora_alpha": 0}, "", "llama.cpp ollama"),
    ("PiSSA", {"init_lora_weights": "pissa"}, "", SERVERS),
    ("PiSSA, fast", {"init_lora_weights": "pissa_niter_16"}, "", ALL),
    ("OLoRA", {"init_lora_weights": "olora"}, "", SERVERS),
    ("LoftQ", {"init_lora_weights": "loftq"}, "", SERVERS),
    ("CorDA", {"init_lora_weights": "corda"}, "transformers peft", SERVERS),
    ("LoRA-GA", {"init_lora_weights": "lora_ga"}, "", ALL),
    *((start, {"init_lora_weights": start}, "", "") for start in ("eva", "gaussian", "mica", "orthogonal")),
    (
        "DoRA",
        {"use_dora": True, "tensors": extra("model.layers.0.self_attn.q_proj.lora_magnitude_vector")},
        SERVERS,
        "",
    ),
    ("KaSA", {"tensors": extra("model.layers.0.self_attn.q_proj.lora_diag")}, SERVERS, ""),
    (
        "a head trained in full",
        {"modules_to_save": ["lm_head"], "tensors": extra("lm_head.weight", (9, 16))},
        SERVERS,
        "",
    ),
    ("a score trained in full", {"modules_to_save": ["score"], "tensors": extra("score.weight", (2, 16))}, SERVERS, ""),
    (
        "norms trained in full",
        {"modules_to_save": ["input_layernorm"], "tensors": extra("model.layers.0.input_layernorm.weight")},
        "vllm ollama",
        "llama.cpp",
    ),
    ("trained biases", {"bias": "all", "tensors": extra("model.layers.0.self_attn.q_proj.bias", (24,))}, SERVERS, ""),
    ("biases that no layer has", {"bias": "all"}, "vllm", ""),
    (
        "biases of factors",
        {"lora_bias": True, "tensors": extra("model.layers.0.mlp.down_proj.lora_B.bias")},
        SERVERS,
        "",
    ),
    ("resized embeddings", {"tensors": extra("model.embed_tokens.weight", (9, 16))}, SERVERS, ""),
    ("copies of the embeddings", {"tensors": extra("model.embed_tokens.base_layer.weight", (9, 16))}, "ollama", ""),
    (
        "rows of tokens",
        {"tensors": extra("model.embed_tokens.token_adapter.trainable_tokens_delta", (2, 16))},
        SERVERS,
        "",
    ),
    (
        "adapted embeddings",
        {
            "tensors": {
                **factors(),
                f"{PREFIX}model.embed_tokens.lora_embedding_A": np.ones((4, 9), "f4"),
                f"{PREFIX}model.embed_tokens.lora_embedding_B": np.ones((16, 4), "f4"),
            }
        },
        "ollama",
        "",
    ),
    ("experts in one tensor", {"target_parameters": ["mlp.experts.down_proj"]}, "llama.cpp", ""),
    ("layer replication", {"layer_replication": [[0, 2], [1, 2]]}, "llama.cpp ollama", "vllm"),
    ("activated LoRA", {"alora_invocation_tokens": [1, 2]}, "", "vllm ollama"),
    ("QA-LoRA", {"use_qalora": True}, SERVERS, ""),
    ("a base of GPT-2", {"fan_in_fan_out": True}, "llama.cpp ollama", ""),
    ("a rank above all that vLLM allows", {"r": 513, "tensors": factors(513)}, "vllm ollama", ""),
    ("names without PEFT's prefix", {"rename": lambda key: key.removeprefix(PREFIX)}, "", "peft"),
    *(
        (
            f"the wrapper {wrapper}",
            {"rename": lambda key, wrapper=wrapper: wrapper + key},
            "llama.cpp ollama",
            "vllm transformers peft",
        )
        for wrapper in ("module.", "_orig_mod.")
    ),
    (
        "a wrapper inside",
        {"rename": lambda key: key.replace(PREFIX, f"{PREFIX}_orig_mod.")},
        "llama.cpp ollama",
        "vllm transformers peft",
    ),
    ("the adapter's name", {"rename": lambda key: key.replace(".weight", ".default.weight")}, SERVERS, "transformers"),
    ("IA3", {"peft_type": "IA3", "tensors": {f"{Q}.ia3_l": ONE}}, SERVERS, ""),
    ("LoHa", {"peft_type": "LOHA", "tensors": {f"{Q}.hada_w1_a": ONE}}, SERVERS, ""),
    (
        "VeRA, with shared tensors",
        {"peft_type": "VERA", "tensors": {"base_model.vera_A": ONE}},
        f"{SERVERS} transformers",
        "",
    ),
    (
        "prompt tuning",
        {"peft_type": "PROMPT_TUNING", "tensors": {"prompt_embeddings": ONE}},
        f"{SERVERS} transformers",
        "",
    ),
    ("OFT, whose rank may be 0", {"peft_type": "OFT", "r": 0, "tensors": {f"{Q}.oft_R.weight": ONE}}, SERVERS, ""),
    ("a pattern that is no regular expression", {"alpha_pattern": {"(": 32}}, "", ""),
    ("a type that PEFT does not know", {"peft_type": "NEW"}, ALL, ""),
]


@pytest.mark.parametrize(("how", "refuse", "misread"), [row[1:] for row in PLANTED], ids=[row[0] for row in PLANTED])
def test_each_reader_says_what_it_makes_of_a_property(tmp_path, how, refuse, misread):
    result = check_adapter(write_adapter(tmp_path / "adapter", **how))
    assert result.faults == ()
    verdicts = {one.reader: one.verdict for one in result.readings}
    expected = dict.fromkeys(ALL.split(), "right")
    assert verdicts == expected | dict.fromkeys(refuse.split(), "refused") | dict.fromkeys(misread.split(), "wrong")
    assert result.is_read_right == (not refuse and not misread)
    bad = [one for reading in result.readings for one in reading.findings if one.severity != "right"]
    assert [one for one in bad if not (one.about and one.what and one.remedy)] == []


def found(folder, name):
    (reading,) = check_adapter(folder, [name]).readings
    return reading.findings[0]


def test_the_weakness_of_rslora_is_given_in_figures_with_an_equal_configuration(tmp_path):
    folder = write_adapter(tmp_path, factors(64), r=64, lora_alpha=16, use_rslora=True)
    finding = found(folder, "llama.cpp")
    assert finding.what == (
        "scales by lora_alpha / rank of the tensor = 0.25, the adapter was trained with lora_alpha / sqrt(r) = 2: "
        "8 times too weak"
    )
    assert finding.remedy == 'write `"use_rslora": false` and `"lora_alpha": 128`: the same adapter'
    write_adapter(tmp_path, factors(64), r=64, lora_alpha=128, use_rslora=False)
    assert check_adapter(folder, ["llama.cpp", "vllm", "peft"]).is_read_right


def test_a_run_is_not_to_be_changed(tmp_path):
    write_adapter(tmp_path / "adapter", use_rslora=True, lora_alpha=8.0)
    for name in ("manifest.json", "recipe.toml"):
        (tmp_path / name).write_text("{}")
    remedies = [found(tmp_path, name).remedy for name in ("llama.cpp", "ollama")]
    assert [remedy.partition(", ")[0] for remedy in remedies] == ["in a copy of the folder"] * 2


def test_vllm_is_said_to_scale_as_it_does(tmp_path):
    whats = [found(write_adapter(tmp_path, use_rslora=is_root), "vllm").what for is_root in (False, True)]
    assert whats == ["scales by lora_alpha / r = 2, as trained", "scales by lora_alpha / sqrt(r) = 4, as trained"]


def test_patterns_are_given_by_kind_of_layer(tmp_path):
    patterns = {"alpha_pattern": {"down_proj": 32}, "rank_pattern": {"layers.1.self_attn.q_proj": 2}}
    tensors = factors()
    for part, cut in (("lora_A", np.s_[:2]), ("lora_B", np.s_[:, :2])):
        key = f"{PREFIX}model.layers.1.self_attn.q_proj.{part}.weight"
        tensors[key] = tensors[key][cut]
    finding = found(write_adapter(tmp_path, tensors, **patterns), "vllm")
    assert finding.about == "rank_pattern, alpha_pattern"
    assert {(one.kind, one.layers, one.strength) for one in finding.factors} == {
        ("q_proj", 1, 1.0), ("q_proj", 1, 0.5), ("down_proj", 2, 0.25)
    }  # fmt: skip
    assert "`down_proj` by 2 instead of 8 (4 times too weak)" in finding.what
    assert finding.what.startswith("scales 3 of 4 layers wrongly")


def test_an_adapter_of_a_run_is_merged_or_written_plainly(tmp_path):
    run = tmp_path / "run"
    folder = write_adapter(run / "adapter", alpha_pattern={"q_proj": 1}, modules_to_save=["lm_head"])
    for name in ("manifest.json", "recipe.toml"):
        (run / name).write_text("{}")
    (reading,) = check_adapter(run, ["vllm"]).readings
    assert [one.remedy for one in reading.findings[:2]] == [
        f"merge it: `lorans merge {run} --output merged`",
        f"`lorans export {run} --to plain` writes the same adapter with alpha = r for every layer",
    ]
    assert read_adapter(folder).run == run


def test_a_checkpoint_whose_start_is_in_the_base_leads_to_the_adapter_of_its_run(tmp_path):
    folder = write_adapter(tmp_path / "checkpoints/checkpoint-3", init_lora_weights="pissa")
    for name in ("manifest.json", "recipe.toml"):
        (tmp_path / name).write_text("{}")
    assert found(folder, "vllm").remedy.startswith(f"take {tmp_path / 'adapter'}")


def test_what_cannot_be_merged_is_not_advised_to_be(tmp_path):
    for how in ({"peft_type": "PROMPT_TUNING"}, {"alora_invocation_tokens": [1]}):
        assert (
            found(write_adapter(tmp_path, **how), "vllm").remedy
            == "load it with PEFT: such an adapter cannot be merged"
        )


@pytest.mark.parametrize(("rank", "told"), [(16, None), (17, 32), (33, 64), (300, 320), (512, 512)])
def test_vllm_is_started_with_the_next_rank_that_it_allows(tmp_path, rank, told):
    folder = write_adapter(tmp_path, factors(rank), r=rank)
    (reading,) = check_adapter(folder, ["vllm"]).readings
    remedies = [one.remedy for one in reading.findings if one.about == "r"]
    assert reading.verdict == "right"
    assert remedies == ([f"start it with `--max-lora-rank {told}`"] if told else [])


NAN, INFINITE = np.full((24, 4), np.nan, "f4"), np.full((24, 4), np.inf, "f4")
FAULTS = [
    ("no tensors", {"tensors": {}}, "has no tensors"),
    ("NaN", {"tensors": {**factors(), f"{Q}.lora_B.weight": NAN}}, f"96 values of `{Q}.lora_B.weight` are NaN"),
    ("infinite", {"tensors": {**factors(), f"{Q}.lora_B.weight": INFINITE}}, "96 values of"),
    (
        "zero",
        {"tensors": {key: value * ("lora_A" in key) for key, value in factors().items()}},
        "a factor is zero in all 4 layers: the adapter does nothing",
    ),
    ("no B", {"tensors": without("lora_B")}, "has no lora_B"),
    ("no A", {"tensors": without("lora_A")}, "has no lora_A"),
    ("another rank", {"r": 8}, "has rank 4, and 8 by the configuration, and 3 more"),
    (
        "factors that do not fit",
        {"tensors": {**factors(), f"{Q}.lora_B.weight": np.ones((24, 3), "f4")}},
        "the two factors of `model.layers.0.self_attn.q_proj` have different ranks",
    ),
    (
        "a factor without dimensions",
        {"tensors": {**factors(), f"{Q}.lora_B.weight": np.array(1.0, "f4")}},
        "the two factors of `model.layers.0.self_attn.q_proj` have different ranks",
    ),
    ("a stray tensor", {"tensors": extra("model.layers.0.gate", (2, 2))}, "is no part of a LoRA adapter"),
    ("names of another library", {"tensors": {"lora_te_text_model.lora_up.weight": ONE}}, "is no part of a LoRA"),
]


@pytest.mark.parametrize(("how", "told"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_a_fault_of_the_folder_is_found_whoever_reads_it(tmp_path, how, told):
    result = check_adapter(write_adapter(tmp_path, **how))
    assert told in result.faults[0].what
    assert result.faults[0].severity == "wrong"
    assert not result.is_read_right


def break_file(name, content):
    def damage(folder):
        (folder / name).write_bytes(content)

    return damage


def remove(name):
    return lambda folder: (folder / name).unlink()


def truncate(folder):
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])


def pickle_instead(folder):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


UNREADABLE = [
    (remove("adapter_config.json"), "adapter_config.json: no such file"),
    (break_file("adapter_config.json", b"{"), "adapter_config.json:1: not JSON"),
    (break_file("adapter_config.json", b"[]"), "adapter_config.json: not a JSON object"),
    (break_file("adapter_config.json", b"{}"), "`peft_type` is null, not the name of a PEFT method"),
    (break_file("adapter_config.json", b'{"peft_type": "LORA", "r": -1}'), "`r` is -1, not a whole number above 0"),
    (
        break_file("adapter_config.json", b'{"peft_type": "LORA", "lora_alpha": "a"}'),
        '`lora_alpha` is "a", not a number',
    ),
    (
        break_file("adapter_config.json", b'{"peft_type": "LORA", "rank_pattern": {"q": [1]}}'),
        '`rank_pattern` is {"q": [1]}, not a table of ranks',
    ),
    (
        break_file("adapter_config.json", b'{"peft_type": "LORA", "modules_to_save": "head"}'),
        '`modules_to_save` is "head", not a list of names',
    ),
    (remove("adapter_model.safetensors"), "an adapter without weights: no adapter_model.safetensors"),
    (pickle_instead, "adapter_model.bin: a pickle, which can run code when it is opened; lorans does not open it"),
    (truncate, "not a safetensors file: cut short"),
    (break_file("adapter_model.safetensors", b"PK"), "not a safetensors file"),
]


@pytest.mark.parametrize(("damage", "told"), UNREADABLE, ids=[told[:45] for _, told in UNREADABLE])
def test_a_folder_that_cannot_be_read_is_refused_with_its_file(tmp_path, damage, told):
    folder = write_adapter(tmp_path / "adapter")
    damage(folder)
    with pytest.raises(LoransError) as refused:
        check_adapter(folder)
    assert refused.value.exit_code == 2
    assert told in str(refused.value)


def test_a_pattern_that_never_ends_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("lora_ns.readers.adapter.SECONDS", 0.1)
    folder = write_adapter(tmp_path, alpha_pattern={r"([\w.]+)+!": 1})
    with pytest.raises(
        LoransError, match=r"matching `rank_pattern` and `alpha_pattern` with the layers takes more than"
    ):
        check_adapter(folder)


def test_a_pickle_is_never_opened(tmp_path):
    folder = write_adapter(tmp_path / "adapter")
    pickle_instead(folder)
    (folder / "adapter_model.bin").write_bytes(b"cos\nabort\n(tR.")  # ends the process that loads it
    with pytest.raises(LoransError, match="a pickle"):
        check_adapter(folder)


def test_an_adapter_without_finite_values_in_integers_is_not_looked_into(tmp_path):
    folder = write_adapter(tmp_path)
    header = {"x": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}
    write_tensors(folder / "adapter_model.safetensors", {})
    text = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"ab")
    with pytest.raises(LoransError, match="stored as F8_E4M3, which cannot be read here"):
        check_adapter(folder)


def test_every_reader_names_the_version_that_it_describes():
    assert [
        name for name, reader in READERS.items() if not (reader.described and reader.title and reader.__doc__)
    ] == []
