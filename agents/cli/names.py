"""What comes with the package, by name: registries are filled by modules that import torch, and this is read at once.

A test holds it against them.
"""

NAMES = {
    "environments": (
        *("GAR/Augment-v0", "GAR/DataSplit-v0", "GAR/DataSplit-v1", "GAR/DataWeight-v0"),
        *("GAR/DataWeight-v1", "GAR/GradientAgreement-v0", "GAR/OptimizerSearch-v0", "GAR/StepSize-v0"),
    ),
    "controllers": (
        *(
            "domain-weights",
            "evolution",
            "keep-all",
            "keep-highest",
            "lstm-ppo",
            "lstm-reinforce",
            "no-augmentation",
            "ola",
            "oracle",
            "rand-augment",
            "random-augment",
            "random-drop",
            "random-rules",
            "reinforce",
        ),
        *("reinforce-linear", "reps", "sb3-a2c", "sb3-dqn", "sb3-maskable-ppo", "sb3-ppo", "schedule"),
        *("small-loss", "step-size-controller", "trivial-augment", "uniform", "uniform-augment"),
        "value-regression",
    ),
    "rewards": (
        *("agreement", "agreement_others", "cosine_gar", "dds_finite_difference", "distinct_gar"),
        *("final_log_loss_decrease", "gar", "heldout_update", "inner_gar", "last_layer_gar", "leave_one_out"),
        *("log_loss_decrease", "loss", "loss_decrease", "meta_gradient", "negative_loss", "next_update", "nslr"),
        *("random", "same_batch_gar", "validation_gar"),
    ),
    "networks": ("cnn", "cnn_bn", "fc", "fc_bn"),
    "data sets": ("cifar10", "cifar100", "digits", "fashion_mnist", "omniglot", "svhn", "synthetic_invariances"),
    "corruptions": (
        "asymmetric_noise",
        "easy",
        "label_noise",
        "near_easy",
        "pixel_noise",
        "repeated",
        "symmetric_noise",
    ),
    "instance sets": ("fixed", "paper", "small"),
    "tasks": ("sine", "sine_maml"),
    "corruptions of tasks": ("noise", "random_labels", "shuffled_targets"),
    "agreement rules": ("agreement", "agreement_others", "damped", "pcgrad", "uniform"),
    "child rewards": (*("alignment", "gar", "nslr", "one_epoch", "table", "validation_accuracy", "validation_loss"),),
    "operands of update rules": (
        *("Adam", "RMSProp", "annealed_noise", "cosine_decay", "g", "g2", "g3", "gamma", "linear_decay", "m", "noise"),
        *("restart_decay", "v"),
    ),
    "unary functions": ("clip", "drop", "exp", "log", "neg", "sign", "sqrt"),
    "binary functions": ("add", "div", "left", "mul", "pow", "sub"),
    "search spaces": ("ra", "ra-translate", "ta-wide", "wl"),
    "operations": (
        *("auto_contrast", "blur", "brightness", "color", "contrast", "cutout", "equalize", "flip_lr", "flip_ud"),
        *("identity", "invert", "posterize", "rotate", "sharpness", "shear_x", "shear_y", "solarize"),
        *("translate_x", "translate_y"),
    ),
}

PATTERNS = {
    "networks": ("wrn-d-k", "mlp-w-w", "tanh-w-w", "cpcpcrcs-w-w-w", "conv4-w", "conv4-w-strided", "transformer-w-d"),
    "data sets": ("FILE.npz", "IMAGE_FOLDER", "TEXT_FOLDER", "SAVED_DATASETS"),
    "instance sets": ("FILE.csv",),
    "tasks": ("a data set", "FILE.npz", "IMAGE_FOLDER"),
    "agreement rules": ("damped(0.1)", "torchjd:NAME"),
}
"""What else has a name, beside the registered ones."""
