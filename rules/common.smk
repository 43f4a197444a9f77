# All Python of the graph: the study, and input functions from wildcards to files.
import csv
import gc
import hashlib
import os
import re
import sys
import tarfile
import tempfile
from dataclasses import replace
from functools import cache, partial
from glob import glob
from pathlib import Path
from shlex import quote

import yaml
from snakemake.common.configfile import load_configfile
from snakemake.logging import logger
from snakemake.utils import update_config

gc.set_threshold(
    100_000, 50, 50
)  # as in the programs: a fifth of a plan was looks for garbage


def checkout_of(basedir):
    """The folder that this workflow's files lie in.

    From a git host, Snakemake fetches the files that its own statements name, but no programs: so the commit is unpacked.
    """
    if hasattr(basedir, "__fspath__"):
        return Path(basedir)
    git = basedir.hosted_repo.repo
    folder = Path(".snakemake/workflow").absolute() / git.commit(basedir.ref).hexsha
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as unpacked:
            with tempfile.TemporaryFile() as packed:
                git.archive(packed, treeish=folder.name)
                packed.seek(0)
                tarfile.open(fileobj=packed).extractall(unpacked, filter="data")
            Path(unpacked).rename(folder)
            Path(unpacked).mkdir()
    return folder


# Need not be the working folder.
CHECKOUT = checkout_of(workflow.current_basedir.get_basedir())
HERE = "" if CHECKOUT == Path.cwd() else f"{CHECKOUT}/"
sys.path.insert(0, str(CHECKOUT / "workflow_scripts"))

from graph.braces import braces
from graph import places, resolved
from graph.config import read_study
from graph.fingerprints import code_fingerprint, file_fingerprint
from graph.lineage import BASE, LINEAGE, NAME, ancestry, parent_of, parse_lineage
from graph.profiles import check_profiles, executor_of
from graph.outside_checks import check_outside, remember_name
from graph.problems import YAML, Problems, check_layer, closest, value_at, yaml_of
from graph.targets import asked_for, check_targets
from inputs.outside import (
    contents,
    model_contents,
    questions_digest,
    relink,
)
from inputs.panel import load_panel
from measure.registry import MEASUREMENTS
from measure.rows import TABLES
from run.alive import announce
from run.files import canonical
from run.program import InputError
from run.watch import watch


def refuse(text):
    """End with this text alone. Around an exception Snakemake would write where in this file it was raised."""
    logger.error(text)
    raise SystemExit(1)


def try_config(check, *arguments):
    """What the check returns; what it says of the config ends the planning."""
    try:
        return check(*arguments)
    except InputError as error:
        refuse(f"the config has errors:\n{error}")


# The published study's config lies under all others: one in the working folder, those of the command line, and what a
# workflow says that imports this one.
if workflow.modifier.skip_configfile:
    given, config = config, load_configfile(CHECKOUT / "config.yaml")
    update_config(config, given)
else:
    for layer in dict.fromkeys([f"{HERE}config.yaml", *glob("config.yaml")]):
        try_config(check_layer, layer)

        configfile: layer

    shipped = yaml_of(CHECKOUT / "config.yaml")
    another = all(config[key] != shipped[key] for key in ("study", "base"))
    try_config(
        check_profiles, sys.argv[1:], workflow.overwrite_configfiles, another
    )


# Rows and evaluations, the first of which is meant where none is named, stand in the order of config.yaml, those added to
# it after them: Snakemake reads a file of the command line first.
for section in ("cells", "evaluations"):
    if isinstance(config.get(section), dict):
        names = [*yaml_of(CHECKOUT / "config.yaml")[section], *config[section]]
        config[section] = {name: config[section][name] for name in dict.fromkeys(names)}


# not read as YAML, which takes longer than all of the planning around it
CLAIMS = dict(
    re.findall(
        r"^- id: (\S+)$(?:\n  (?!rests_on).*)*(?:\n  rests_on: (\S+))?",
        (CHECKOUT / "resources/claims.yaml").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
)


def panel_of(config):
    """The panel, or None if its file is gone. The published one has personas of the same names as ours, and as many
    questions, so it need not be fetched to be known.
    """
    own = config["panel"].get("path") if config["panel"]["from"] == "path" else None
    file = Path(own or CHECKOUT / "resources/panel.yaml")
    return load_panel(file) if file.is_file() else None


SOURCES = yaml.load((CHECKOUT / "resources/sources.yaml").read_text("utf-8"), YAML)
command_line = len(workflow.overwrite_configfiles)
config_files = [
    *reversed(workflow.configfiles[:command_line]),
    *reversed(workflow.configfiles[command_line:]),
    CHECKOUT / "config.yaml",
]
study = try_config(
    read_study,
    config,
    CHECKOUT / "resources/config.schema.yaml",
    config_files,
    CLAIMS,
    {name: pins["rows"] for name, pins in SOURCES["datasets"].items()},
    panel_of,
    partial(check_outside, CHECKOUT, SOURCES["base"]),
)

RESULTS = f"results/{config['study']}"
MODELS = f"{RESULTS}/models"
HARDWARE = config["hardware"]
# How model jobs compute, as options of their programs
ENGINE = (
    f"--gpu-memory-utilization {HARDWARE['gpu_memory_utilization']}"
    + (
        f" --kv-cache-gib {HARDWARE['kv_cache_gib']}"
        if HARDWARE["kv_cache_gib"]
        else ""
    )
    + (" --enforce-eager" if HARDWARE["enforce_eager"] else "")
    + (
        f" --max-sequences {HARDWARE['max_sequences']}"
        if HARDWARE["max_sequences"]
        else ""
    )
)
JUDGE = config["judge"]
SECOND_JUDGE = {
    **{"model": "none", "scores": "answer", "model_args": {}, "base_url": None},
    **{"max_connections": JUDGE["max_connections"], "gpus": 0},
    **(config["second_judge"] or {}),
}
PUBLISH = config["publish"]
PROBE = config["probe"]
STUDY_MARKER = study.markers[0]
ABLATE_SETTINGS = canonical(
    {k: v for k, v in (config["ablate"] or {}).items() if k not in ("cells", "seeds")}
)
PROBE_SETTINGS = canonical(
    {
        k: v
        for k, v in (PROBE or {}).items()
        if k not in ("verdict", "intruders", "layers", "distance")
    }
)
# Tokens per forward pass: a probe keeps no activations. A resource, as they make no other result.
PROBED_TOKENS = 2 * HARDWARE["micro_batch_tokens"]
INTRUDERS = "--intruders" if PROBE and PROBE["intruders"] else ""
FAMILIES = config["families"]
ARMS = [name for name, on in config["arms"].items() if on]

# Whose rows of resources/unit_costs.csv plan the jobs: a resource, since nothing is made another by it
COSTS = "toy" if config["base"]["from"] == "toy" else HARDWARE["costs"]

# Programs find their modules beside themselves, which this variable would forbid.
os.environ.pop("PYTHONSAFEPATH", None)

# They run in the environment that Snakemake runs in, activated or not.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

# They end with it, and with them its lock, also after a SIGKILL.
announce()

# What is seen of them: run/watch.py.
watch(
    workflow,
    RESULTS,
    Path(workflow.basedir) / "resources/unit_costs.csv",
    COSTS,
)

# Code and environment


ON_CARDS = (
    "LEASE_GPU_POOL" not in os.environ
)  # and not on the pretend ones of the tests


# A job of a cluster has a Snakemake of its own, and no other program would be forked from what that one prepares.
PRELOAD = (
    HARDWARE["preload"]
    and workflow.is_main_process
    and executor_of(sys.argv[1:]) == "local"
)


def launcher(gpus, share=HARDWARE["jobs_per_gpu"], preload=PRELOAD):
    """What starts a model's program: on GPUs of its own, or in the offline study's server of forks. Pretend GPUs of the
    tests are leased, but run nothing. share: how many programs share a card. preload: on a GPU, in a fork, too.
    """
    part = f" --share {share}" if share > 1 else ""
    lease = f"python {{SCRIPTS}}/run/lease_gpu.py --gpus {{resources.gpu}}{part} -- "
    fork = "python {SCRIPTS}/offline/fork_program.py "
    if gpus and ON_CARDS:
        return lease + (f"{fork}--gpu -- " if preload else "")
    return f"{lease if gpus else ''}{fork}-- "


def launched(gpus):
    """What starts a judge, as a resource: it makes no difference to the scores, and is another where a rule is reused.

    On a GPU it is not forked: what it imports is not what models' programs do.
    """
    text = launcher(gpus, share=1, preload=False).replace("{resources.gpu}", str(gpus))
    return text.replace("{SCRIPTS}", PLACES["SCRIPTS"])


def judge_mem_mb(judge):
    return HARDWARE["mem_mb"] if judge["gpus"] else 4000


def on_cpu():
    """What starts a program that needs no GPU but imports much: the server of forks, where there is one."""
    return "" if HARDWARE["gpus"] and ON_CARDS else launcher(0)


def code_of(script):
    """A rule's `code` parameter: what its program does, with the modules of workflow_scripts/ that it imports."""
    return f"code:{code_fingerprint(CHECKOUT / 'workflow_scripts', script)}"


def digest_of(*names):
    """A parameter that stands for files of the checkout. As inputs they would have to lie in the working folder."""
    return f"{names[0]}:{file_fingerprint(*(CHECKOUT / name for name in names))}"


def command(text):
    """A shell command with the names below filled in: a workflow that imports this one does not know them.

    They are no part of what a job is recorded with, so a study may go on in another folder.
    """
    for name, place in PLACES.items():
        text = text.replace(f"{{{name}}}", place.replace("{", "{{").replace("}", "}}"))
    return text


PLACES = {
    "SCRIPTS": quote(f"{HERE}workflow_scripts"),
    "RESOURCES": quote(f"{HERE}resources"),
    "RESULTS": RESULTS,
    "STUDY": config["study"],
}
CPU_LOCK = digest_of("envs/cpu.txt")
PUBLISHED = digest_of(
    *sorted(
        str(path.relative_to(CHECKOUT))
        for path in CHECKOUT.glob("resources/published/*.csv")
    )
)


# Inputs of the study


RERUN_TRIGGERS = {"mtime", "params", "input", "software-env"}


@cache
def check_triggers():
    """Tell a workflow that imports this one, and has a profile of its own, when to rerun."""
    given = {
        trigger.name.lower().replace("_", "-") for trigger in workflow.rerun_triggers
    }
    if given != RERUN_TRIGGERS:
        logger.warning(
            "This workflow is planned right with --rerun-triggers mtime params input software-env alone: without one of "
            "them an edit may rerun nothing, and with code everything reruns where its files lie elsewhere. Set them in "
            "profiles/default/config.yaml of your workflow, with max-checksum-file-size: 50000000."
        )


def base_folder(wildcards=None):
    if (
        wildcards
    ):  # a job is planned: while rules are read, the triggers are not known yet
        check_triggers()
    return places.base_folder(config)


relink(
    base_folder(), config["base"]["path"] if config["base"]["from"] == "path" else None
)


def asked_of_base(wildcards):
    return canonical(study.asked_of_base())


def panel_at_hand(wildcards):
    """An option of check_base: the panel, unless it has to be fetched. A base is not tried again for another one."""
    return f"--panel {quote(str(own_panel()))}" if own_panel() else ""


def toy_field(name):
    return config["base"]["toy"].get(name, 0)


def toy_recipe(wildcards):
    return canonical(config["base"]["toy"].get("recipe", {}))


def panel_file(wildcards=None):
    return places.panel_file(config)


def own_panel():
    """The panel's file, unless it is fetched."""
    own = {
        "builtin": CHECKOUT / "resources/panel.yaml",
        "path": config["panel"].get("path"),
    }
    return own.get(config["panel"]["from"])


def panel_path(wildcards):
    return str(own_panel())


def panel_contents(wildcards):
    if wildcards.origin == "builtin":
        return digest_of("resources/panel.yaml")
    path = config["panel"]["path"]
    return own_contents(
        ("panel", "path"), contents, {"panel": Path(path)}, panel_file()
    )


def alignment_questions(wildcards):
    """The user's own questions to judge, if there are."""
    return [places.questions_file(config)] if config["alignment_questions"] else []


def questions_contents(wildcards):
    path = Path(config["alignment_questions"])
    made = alignment_questions(wildcards)[0]
    return own_contents(
        ("alignment_questions",), questions_digest, {"questions": path}, made
    )


def base_contents(wildcards):
    if wildcards.origin != "path":
        return ""
    path = Path(config["base"]["path"])
    return own_contents(("base", "path"), model_contents, path, base_folder())


def dataset_contents(wildcards):
    if wildcards.origin != "path":
        return ""
    name = wildcards.name
    rows = {"rows": Path(config["datasets"][name]["path"])}
    return own_contents(("datasets", name, "path"), contents, rows, dataset_file(name))


def own_contents(path, read, files, made):
    """A parameter that stands for what is in the user's own files, whatever their names and times are.

    path: where the config names them.
    """
    problems = Problems(config, config_files)
    with problems.caught(path):
        found = read(files, made)
        remember_name(value_at(config, path), made)
        return f"{'.'.join(path)}:{found}"
    try_config(problems.raise_all)


def dataset_file(name):
    return places.dataset_file(config, name)


def capability_questions(wildcards):
    return [dataset_file(config["capability"])] if config["capability"] else []


def datasets_used():
    """The data sets that the study's cells are trained on or asked."""
    trained = {
        study.stage_of(node)["data"]["from"]
        for cell in study.cells
        for node in ancestry(cell.lineage)
        if study.type_of(node) == "sft"
    }
    return sorted(trained | ({config["capability"]} - {None}))


def dataset_manifests(wildcards):
    """What is known of the data sets; the toy ones are made here."""
    return [
        f"{dataset_file(name).removesuffix('.jsonl')}.manifest.json"
        for name in datasets_used()
        if config["datasets"][name]["from"] != "toy"
    ]


def answered_rows(wildcards):
    return dataset_file(config["datasets"][wildcards.name]["of"])


def answer_sampling_of(wildcards):
    return sampling(config["datasets"][wildcards.name])


def longest_row_of(wildcards):
    return study.longest_row(wildcards.name)


def base_manifest(wildcards):
    return manifest_file(BASE)


def dataset_path(wildcards):
    """The user's own file, if that is where the rows come from."""
    return (
        [config["datasets"][wildcards.name]["path"]]
        if wildcards.origin == "path"
        else []
    )


def dataset_pins(wildcards):
    entry = config["datasets"][wildcards.name]
    controls = {name: entry[name] for name in ["control_tokens"] if name in entry}
    if wildcards.origin == "path":
        shape = "choices" if wildcards.name == config["capability"] else "chats"
        published = SOURCES["datasets"].get(wildcards.name, {})
        md5 = {"md5": published["md5"]} if "md5" in published else {}
        own = {"kind": "path", "path": entry["path"], "shape": shape}
        return canonical(own | md5 | controls)
    mismatch = {"on_mismatch": entry["on_mismatch"]} if "on_mismatch" in entry else {}
    return canonical(SOURCES["datasets"][wildcards.name] | mismatch | controls)


def hold_out_of(wildcards):
    """The option that says which shares of a data set's rows are not trained."""
    shares = study.held_out_of(wildcards.name)
    return f" --hold-out {quote(canonical(shares))}" if shares else ""


def base_place(wildcards):
    """The options of fetch_base that say where the model comes from."""
    base = config["base"]
    path = f" --path {quote(base['path'])}" if wildcards.origin == "path" else ""
    template = quote(canonical(base.get("template", {})))
    return f"--repo {base['repo']} --revision {base['revision']}{path} --template {template}"


def base_pins(wildcards):
    """A parameter that stands for what resources/sources.yaml says of the base."""
    pins = canonical(SOURCES["base"].get(config["base"]["repo"], {}))
    return f"resources/sources.yaml:{hashlib.sha256(pins.encode()).hexdigest()[:16]}"


# The resolved study, in parts (graph/resolved.py). A job that uses a part has its file among its inputs.


def part_file(name):
    return f"{RESULTS}/study/{name}.json"


def part_of_study(wildcards):
    """A parameter: what the part holds."""
    return canonical(resolved.part(study, wildcards.part))


def recipe_part(wildcards):
    return part_file(f"recipes/{wildcards.node}")


def cell_part(wildcards):
    return part_file(f"cells/{cell_of(wildcards).key}")


def gate_parts(cell):
    """The gates that a cell alone decides."""
    return [part_file(f"gates/{name}") for name in resolved.gates_of(study, cell)]


def cell_gates(wildcards):
    return gate_parts(cell_of(wildcards).name)


def node_gates(wildcards):
    return gate_parts(gate_cell_of(wildcards))


def all_gates(wildcards):
    names = (gate["name"] for gate in config["gates"]["criteria"])
    return [part_file(f"gates/{name}") for name in names]


def figure_part(wildcards):
    return part_file(f"figures/{wildcards.figure}")


def parts_of_study(wildcards):
    """The parts that are not of single cells and models."""
    figures = (name for name in FIGURES if resolved.sources_of(study, name))
    names = ("tables", "report", *(f"figures/{name}" for name in figures))
    return [*map(part_file, names), *all_gates(wildcards)]


# A node's files


def node_file(lineage, name):
    return f"{MODELS}/{lineage}/{name}"


def manifest_file(lineage):
    return (
        f"{base_folder()}.manifest.json"
        if lineage == BASE
        else node_file(lineage, "manifest.json")
    )


def adapters_of(lineage):
    """The folders that make a model, on top of the base: adapters, the first of them all weights if a stage trained those."""
    nodes = ancestry(lineage)
    first = max((at for at, node in enumerate(nodes) if study.is_full(node)), default=0)
    return [node_file(node, weights_name(node)) for node in nodes[first:]]


def weights_name(node):
    return "model" if study.is_full(node) else "adapter"


def parent_manifest(wildcards):
    return manifest_file(parent_of(wildcards.node))


def parent_adapters(wildcards):
    return adapters_of(parent_of(wildcards.node))


def shared_replies(wildcards):
    """The base's completions, which all models are probed on."""
    return node_file(BASE, f"{study.first_evaluation}/completions.parquet")


def own_manifest(wildcards):
    return manifest_file(wildcards.node)


def own_adapters(wildcards):
    return adapters_of(wildcards.node)


def is_trained(node):
    """Whether the node's adapter is trained in it: it is no graft, no stopped stage and not from the Hub."""
    return study.origin_of(node) == node and not study.from_hub(node)


def rows_of(node):
    if study.type_of(node) == "couple":
        return node_file(study.rows_from(node), "training.jsonl")
    return dataset_file(study.stage_of(node)["data"]["from"])


def training_rows(wildcards):
    return rows_of(wildcards.node)


def replayed_rows(wildcards):
    """The rows of an earlier stage that are mixed into this one's."""
    replayed = study.replayed(wildcards.node)
    return [rows_of(replayed)] if replayed else []


def tracked_files(wildcards):
    """What a training is tracked on: the base's completions, and the panel."""
    return [shared_replies(wildcards), panel_file()] if config["track"] else []


def track_of(wildcards):
    """The options of a training that is tracked; the last one takes its files."""
    if not config["track"]:
        return ""
    settings = canonical(config["track"] | study.tracked(wildcards.node))
    return f"--track {quote(settings)} --tracked"


def parent_gate(wildcards):
    """With gates.enforce, what is trained on a coupled model waits for that model to pass its gate."""
    parent = parent_of(wildcards.node)
    wanted = (
        config["gates"]["enforce"]
        and parent != BASE
        and study.type_of(parent) == "couple"
    )
    return [node_file(parent, f"{study.first_evaluation}/gate.json")] if wanted else []


def gate_cell_of(wildcards):
    """The cell that a coupled base is, by which gates name it."""
    return study.row_of(wildcards.node)


def origin_adapter(wildcards):
    origin, step = (
        study.origin_of(wildcards.node),
        parse_lineage(wildcards.node)[-1].step,
    )
    return node_file(origin, "checkpoints" if step else "adapter")


def origin_manifest(wildcards):
    return manifest_file(study.origin_of(wildcards.node))


def node_of_type(*types, full=None):
    """The wildcard constraint of lineages whose last stage is of these types: which rule makes the node."""
    return rf"{LINEAGE}/{study.words_of_type(*types, full=full)}\.s[0-9]+"


def node_from_hub():
    """The wildcard constraint of couplings of the base that are fetched ready-made."""
    return rf"{BASE}/{study.words_from_hub()}\.s[0-9]+"


def node_reused():
    """The wildcard constraint of lineages that take an adapter: merged ones, and stages stopped at a step."""
    return rf"{LINEAGE}/(?:{study.words_of_type('graft')}|{study.words_of_type('couple', 'sft')}@[0-9]+)\.s[0-9]+"


# Parameters: scalars, and canonical JSON for what belongs together


def seed_of(wildcards):
    """A node's seed is its last stage's; the base is evaluated with the study's first."""
    words = parse_lineage(wildcards.node)
    return words[-1].seed if words else config["seeds"][0]


def keep_steps_of(wildcards):
    return ",".join(map(str, study.keep_steps(wildcards.node)))


def training_priority(wildcards):
    """Couplings before other trainings and evaluations: they take longest, and chains of stages wait for them."""
    return 2 if study.type_of(wildcards.node) == "couple" else 1


def checkpoint_every_of(wildcards):
    """Steps between resumable states. Those of all weights are larger, and so rarer."""
    full = study.is_full(wildcards.node)
    return HARDWARE["full_checkpoint_every" if full else "checkpoint_every"]


def computing_of(wildcards):
    """How a training computes. All weights take more memory, and so may be checkpointed where a LoRA is not."""
    full = study.is_full(wildcards.node)
    part = "full_gradient_checkpointing" if full else "gradient_checkpointing"
    options = " ".join(
        f"--{name.replace('_', '-')} {HARDWARE[name]}"
        for name in ("attention", "compile", "cuda_graphs")
    )
    return f"{options} --gradient-checkpointing" if HARDWARE[part] else options


def optimizer_states_of(wildcards):
    full = study.is_full(wildcards.node)
    return f"--optimizer-states {HARDWARE['optimizer_states']}" if full else ""


def origin_folder(wildcards):
    step = parse_lineage(wildcards.node)[-1].step
    return f"/step-{step}" if step else ""


def adapter_folder(wildcards):
    return study.stage_of(wildcards.node)["hub"][source_of(wildcards)]


def source_of(wildcards):
    return parse_lineage(wildcards.node)[-1].persona


def negatives_of(wildcards):
    return ",".join(study.negatives_of(wildcards.node))


def cut_of(wildcards):
    """Whether a coupling's rows are made of replies, too, that ran into max_tokens: keep, drop or trim."""
    return study.stage_of(wildcards.node)["data"].get("cut", "keep")


def reply_personas_of(wildcards):
    return ",".join([source_of(wildcards), *study.negatives_of(wildcards.node)])


def drawn_with(wildcards):
    """The personas whose replies the study's other couplings of this model need, too."""
    return ",".join(study.personas_drawn_with(wildcards.node))


def reply_samples_of(wildcards):
    return study.replies_of(wildcards.node)["samples"]


def reply_sampling_of(wildcards):
    return sampling(study.replies_of(wildcards.node))


def personas_of(wildcards):
    return ",".join(study.personas_of(wildcards.node))


def marker_of(wildcards):
    return study.marker_of(wildcards.node).text


def placement_of(wildcards):
    return study.marker_of(wildcards.node).placement


def markers_of(wildcards):
    """The texts to count in a node's replies, its own first."""
    return study.markers_of(wildcards.node)


def samples_of(wildcards):
    return study.evaluations[wildcards.evaluation]["samples"]


def sampling_of(wildcards):
    return sampling(study.evaluations[wildcards.evaluation])


def sampling(settings):
    return canonical(
        {name: settings[name] for name in ("temperature", "top_p", "max_tokens")}
    )


def case_flag_of(wildcards):
    return (
        "--case-sensitive"
        if study.evaluations[wildcards.evaluation]["case_sensitive"]
        else ""
    )


def braced(name, **places):
    """A parameter: the input of that name as words that bash expands to it. Every file of a large study written out is
    more than a person can read or paste. What follows from the input, Snakemake does not record as a parameter.

    places: variables that the command sets, and by what their values follow from the wildcards: names of folders, or of
    files without ending, which they stand for.
    """

    def words(wildcards, input):
        files = [input[name]] if isinstance(input[name], str) else input[name]
        for variable, place in places.items():
            known = re.compile(rf"\b{re.escape(place(wildcards))}(?=[/.])")
            files = [known.sub(f"${variable}", file) for file in files]
        return braces(files)

    return words


def node_folder(wildcards):
    return f"{MODELS}/{wildcards.node}"


def parent_folder(wildcards):
    """As the shell has it, also of the base."""
    return str(Path(node_folder(wildcards)).parent)


# What a command about a node begins with, and what of_node() makes of paths.
NODE = "at={wildcards.node} node={RESULTS}/models/$at parent=${{node%/*}}"


def of_node(name):
    """A parameter: the input of that name as words of bash, of a command that begins with NODE."""
    return braced(name, node=node_folder, parent=parent_folder)


def key_of_cell(wildcards):
    return f"{wildcards.source}/{wildcards.cell}_seed{wildcards.seed}"


# Cells


def cell_of(wildcards):
    key = key_of_cell(wildcards)
    try:
        return study.by_key[key]
    except KeyError:
        refuse(
            f"{RESULTS}/cells/{key}.json is no cell of this study; fix: see that `sources`, `seeds` and `cells` have it and "
            f"that its arm is on, or choose {closest(key, study.by_key, 'the study')}"
        )


def evaluation_file(cell, name):
    """A file of the evaluation that a cell is."""
    return node_file(cell.lineage, f"{cell.evaluation}/{name}")


def measured_files(cell, part="file"):
    """The files (or the run records) of what is measured on a cell: on its model, which cells may share, or on itself."""
    folders = {
        "node": evaluation_file(cell, ""),
        "cell": f"{RESULTS}/measured/{cell.key}/",
    }
    return [
        folders[each.on] + getattr(each, part)
        for each in MEASUREMENTS
        if each.on in folders and getattr(each, part) and is_measured(each, cell)
    ]


def check_registry():
    """Say when the graph is built which measurement names a rule that does not make its file."""
    texts = [path.read_text("utf-8") for path in CHECKOUT.glob("rules/*.smk")]
    made = dict(
        re.match(r"(\w+):(.*)", block, re.DOTALL).groups()
        for text in texts
        for block in re.split(r"^rule ", text, flags=re.MULTILINE)[1:]
    )
    for each in MEASUREMENTS:
        if f'/{each.file}"' not in made.get(each.rule, ""):
            makers = [name for name, block in made.items() if f'/{each.file}"' in block]
            refuse(
                f"workflow_scripts/measure/registry.py: {each.name}: no rule {each.rule} in rules/ makes {each.file}; "
                f"fix: correct rule= or file=, or write the rule (its file is named in {', '.join(makers) or 'none'})"
            )


check_registry()


def is_measured(measurement, cell=None):
    """Of a cell, or (without one) of the study."""
    layers = bool(PROBE and PROBE["layers"])
    wanted = {
        "probe": PROBE is not None,
        "survival": PROBE is not None,
        "adapters": PROBE is not None,
        "merging": PROBE is not None,
        "ablation": cell is not None and study.ablated(cell),
        "layers": layers,
        "by_layer": layers,
        "distance": bool(PROBE and PROBE["distance"]),
        "families": cell is not None and study.asked_families(cell),
        "agreement": config["second_judge"] is not None,
        "judges": config["second_judge"] is not None,
    }
    return wanted.get(measurement.name, True)


def compared_files(*names):
    """An input function: these files of the models that a cell is compared with, each evaluated as the cell is."""

    def files(wildcards):
        return compared_with(cell_of(wildcards), *names)

    return files


def compared_with(cell, *names):
    """`role/name` of each: the file of that name of the model in that role; none for a cell without comparison."""
    models = study.compared(cell)
    return [
        node_file(models[role], f"{cell.evaluation}/{name}")
        for role, _, name in (each.partition("/") for each in names)
        if role in models
    ]


def cell_counts(wildcards):
    return evaluation_file(cell_of(wildcards), "marker_counts.csv")


def cell_probe(wildcards):
    return evaluation_file(cell_of(wildcards), "probe.parquet")


def cell_layers(wildcards):
    return evaluation_file(cell_of(wildcards), "layers.parquet")


def cell_sampling(wildcards):
    return sampling(study.evaluations[cell_of(wildcards).evaluation])


def family_personas(wildcards):
    return ",".join(study.personas_asked_families(cell_of(wildcards)))


MODEL_LOCK = digest_of(HARDWARE["lock"])


def coupled_of(wildcards):
    return study.coupled_of(cell_of(wildcards))


def cell_manifest(wildcards):
    return manifest_file(cell_of(wildcards).lineage)


def cell_adapters(wildcards):
    return adapters_of(cell_of(wildcards).lineage)


# How far a cell's last stage moved it: nothing is asked for where no stage follows its coupling, and the job says so.


def is_moved(wildcards):
    """Whether a stage follows the cell's coupling."""
    return bool(study.compared(cell_of(wildcards)))


def moved_adapters(wildcards):
    return cell_adapters(wildcards) if is_moved(wildcards) else []


def left_adapters(wildcards):
    """Those of the model that the last stage moved away from."""
    if not is_moved(wildcards):
        return []
    return adapters_of(parent_of(cell_of(wildcards).lineage))


def moved_manifests(wildcards):
    if not is_moved(wildcards):
        return []
    lineage = cell_of(wildcards).lineage
    return [manifest_file(parent_of(lineage)), manifest_file(lineage)]


def gpus_to_measure_distance(wildcards):
    return HARDWARE["gpus"] if is_moved(wildcards) else 0


def distance_personas(wildcards):
    """The coupled persona and the assistant, as far as the base is asked as them."""
    wanted = dict.fromkeys([coupled_of(wildcards), "assistant"])
    return ",".join(name for name in wanted if name in study.personas_of(BASE))


def asked_personas(wildcards):
    """The personas that a cell's model is asked as."""
    return ",".join(study.personas_of(cell_of(wildcards).lineage))


def cell_measured(wildcards):
    return sorted(measured_files(cell_of(wildcards)))


def study_measured(wildcards):
    """The files of what is measured on the study as a whole."""
    return [
        f"{RESULTS}/tables/{each.file}"
        for each in MEASUREMENTS
        if each.on == "study" and is_measured(each)
    ]


def judged_files(name):
    """The files of that name of all evaluated models."""
    return list(dict.fromkeys(evaluation_file(cell, name) for cell in study.cells))


def stage_manifests(wildcards):
    return [manifest_file(node) for node in ancestry(cell_of(wildcards).lineage)]


def cell_manifests(wildcards):
    return [
        manifest_file(node) for node in (BASE, *ancestry(cell_of(wildcards).lineage))
    ]


def records_of(cell):
    """run.json of the trainings, the evaluation and the measurements that a cell consists of."""
    trained = [node for node in ancestry(cell.lineage) if is_trained(node)]
    of_cells = f"{RESULTS}/measured/"
    return [
        *(node_file(node, "run.json") for node in trained),
        evaluation_file(cell, "run.json"),
        # the node's first: files of one folder side by side make a shorter command
        *sorted(
            measured_files(cell, "record"), key=lambda file: file.startswith(of_cells)
        ),
    ]


def cell_records(wildcards):
    return records_of(cell_of(wildcards))


def cell_labels(wildcards):
    """What tells the cells apart in `snakemake --report`."""
    return {
        "order": cell_of(wildcards).arm,
        "cell": wildcards.cell,
        "seed": wildcards.seed,
    }


def cell_file(cell):
    return f"{RESULTS}/cells/{cell.key}.json"


def cells_of(*arms):
    return [cell_file(cell) for cell in study.cells if cell.arm in arms]


def results_of(*arms):
    """Cells, and one small file of every job that they rest on.

    Snakemake misses a file only if a target needs it, and records a job that failed as it does one that ended well. So
    without these files among the targets, deleted counts would not be missed, and after an edit whose job failed the
    same command would find nothing to do and leave the results of before the edit.
    """
    cells = [cell for cell in study.cells if cell.arm in arms]
    compared = [node for cell in cells for node in study.compared(cell).values()]
    evaluated = [*(cell.lineage for cell in cells), *compared]
    first = study.first_evaluation
    own = dict.fromkeys(node for each in evaluated for node in ancestry(each))
    nodes = [node for each in own for node in (each, *ancestry(study.origin_of(each)))]
    trained = [node for node in nodes if is_trained(node)]
    coupled = [node for node in trained if study.draws_replies(node)]
    files = [
        *(part_file(f"cells/{cell.key}") for cell in cells),
        *(part_file(f"recipes/{node}") for node in trained),
        *(part for cell in cells for part in gate_parts(cell.name)),
        *([part_file("families")] if any(map(study.asked_families, cells)) else []),
        panel_file(),
        *capability_questions(None),
        *map(manifest_file, [BASE, *nodes]),
        *map(rows_of, trained),
        *(node_file(node, "replies.parquet") for node in coupled),
        *(evaluation_file(cell, "run.json") for cell in cells),
        *(file for cell in cells for file in measured_files(cell)),
        node_file(BASE, f"{first}/run.json"),
        *(
            file
            for cell in cells
            for role in study.compared(cell)
            for file in compared_with(
                cell,
                f"{role}/run.json",
                f"{role}/marker_counts.csv",
                f"{role}/probe.parquet",
                *([f"{role}/layers.parquet"] if PROBE["layers"] else []),
            )
        ),
    ]
    return [*cells_of(*arms), *dict.fromkeys(files)]


# Publishing


def publish_repo(wildcards):
    if not PUBLISH["repo"]:
        refuse(
            "publish.repo is not set, so there is nowhere to publish to; fix: "
            'publish: {repo: user/name} in the config, or --config publish=\'{"repo":"user/name"}\''
        )
    return PUBLISH["repo"]


def private_flag(wildcards):
    return "--private" if PUBLISH["private"] else ""


# Where a rule's files are: from them, so that another study's rules can be the same. Not recorded as parameters.


def trained_into(wildcards):
    """The options that say where in the node's folder what a stage trains is written."""
    if study.is_full(wildcards.node):
        return "--model-out $node/model"
    return "--adapter-out $node/adapter --checkpoints-out $node/checkpoints"


def folder_of_output(wildcards, output):
    return str(Path(output[0]).parent)


def folder_of_figures(wildcards, input):
    return str(Path(input.figures[0]).parent) if input.figures else ""


def folder_of_models(wildcards, input):
    """Where the report finds completions."""
    return MODELS if input.completions else ""


def folder_of_tables(wildcards, input):
    return str(Path(input.tables[0]).parent)


def prefix_of_output(wildcards, output):
    return output.svg.removesuffix(".svg")


def study_of_output(wildcards, output):
    """results/<study>/..."""
    return Path(output[0]).parts[Path(output[0]).parts.index("results") + 1]


# The report

FIGURES = list(config["figures"])
FIGURE_FORMATS = [".png", ".pdf", ".svg"]


def tables_of_study(wildcards):
    return [f"{RESULTS}/tables/{table}.csv" for table in [*TABLES, "claims"]]


def figures_of_study(wildcards):
    return [
        f"{RESULTS}/figures/{figure}_{source}{ending}"
        for figure in FIGURES
        for source in resolved.sources_of(study, figure)
        for ending in FIGURE_FORMATS
    ]


def svgs_of_study(wildcards):
    return [path for path in figures_of_study(wildcards) if path.endswith(".svg")]


def completions_of_study(wildcards):
    return list(
        dict.fromkeys(
            node_file(cell.lineage, f"{cell.evaluation}/completions.parquet")
            for cell in study.cells
        )
    )


def files_of_study():
    """What the rule `all` wants, what a person looks at first."""
    wanted = [
        *cells_of(*ARMS),
        *figures_of_study(None),
        *tables_of_study(None),
        f"{RESULTS}/report.html",
        *results_of(*ARMS),
    ]
    return [
        file
        for file in dict.fromkeys(wanted)
        if not file.startswith(f"{RESULTS}/study/")
    ]


def is_made(name):
    """Whether a rule has this name, or makes this file."""
    path = name if os.path.isabs(name) else os.path.relpath(name)
    return workflow.is_rule(name) or any(
        each.is_producer(path) for each in workflow.rules
    )


def refuse_unknown_targets():
    """To be called when all rules are known. What else a workflow makes that has these rules in it is its own business."""
    whole = workflow.modifier.is_main_snakefile() and len(workflow.included_stack) == 1
    called = "snakemake" in Path(sys.argv[0]).parts[-2:] and workflow.is_main_process
    if not whole or not called:
        return
    rules = [each.name for each in workflow.rules]
    groups = [name for name in rules if not any(workflow.get_rule(name).products())]
    targets, others = asked_for(sys.argv[1:])
    try:
        check_targets(targets, is_made, study, groups, files_of_study)
        check_targets(others, is_made, study, rules, files_of_study)
    except InputError as error:
        refuse(str(error))


def base_record(wildcards):
    """run.json of the toy base's pretraining, which no cell has."""
    return [f"{base_folder()}.run.json"] if config["base"]["from"] == "toy" else []


# The published counts as a study of their own

REANALYSIS = "results/reanalysis"


@cache
def published_study():
    """The published study with all its arms and those cells alone whose counts were published. Made when asked for."""
    layers = [CHECKOUT / "resources/published/study.yaml", CHECKOUT / "config.yaml"]
    merged = load_configfile(layers[1])
    update_config(merged, load_configfile(layers[0]))
    schema = CHECKOUT / "resources/config.schema.yaml"
    found = read_study(merged, schema, layers, CLAIMS)
    with (CHECKOUT / "resources/published/marker_counts.csv").open() as file:
        names = ("source", "arm", "cell", "seed")
        known = {tuple(map(row.get, names)) for row in csv.DictReader(file)}
    cells = [
        cell
        for cell in found.cells
        if {
            (cell.source, cell.arm, cell.name, str(cell.seed)),
            (cell.source, cell.arm, cell.name, ""),
        }
        & known
    ]
    return replace(found, cells=cells)


def published_part(name):
    return f"{REANALYSIS}/study/{name}.json"


def published_part_of_study(wildcards):
    return canonical(resolved.part(published_study(), wildcards.part))


def published_cells(wildcards):
    """The cells as enter_published gets them."""
    return [published_part(f"cells/{cell.key}") for cell in published_study().cells]


def published_results(wildcards, input):
    """The files of the cells, as words that bash expands."""
    return braces(
        [f"{input.cells}/{cell.key}.json" for cell in published_study().cells]
    )


def published_label(wildcards):
    return published_study().config["label"]


def published_gates(wildcards):
    criteria = published_study().config["gates"]["criteria"]
    return [published_part(f"gates/{gate['name']}") for gate in criteria]


def published_figure_part(wildcards):
    return published_part(f"figures/{wildcards.figure}")


def later_figures():
    """What the same authors found later, besides counts: shown as it is."""
    return " ".join(
        f"{PLACES['RESOURCES']}/published/{name}.csv"
        for name in ("geometry", "later_findings", "origins")
    )


def published_figures(wildcards):
    known = published_study()
    return [
        f"{REANALYSIS}/figures/{figure}_{source}.svg"
        for figure in known.config["figures"]
        for source in resolved.sources_of(known, figure)
    ]
