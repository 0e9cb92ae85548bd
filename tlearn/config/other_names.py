"""What other frameworks call the keys of ours."""

# What other frameworks call a key, where its last part does not tell; the first that a program has counts. With a value
# where it takes another.
SYNONYMS = {
    **dict.fromkeys(("learning_rate", "base_lr"), ("optimizer.lr",)),
    "wd": ("optimizer.weight_decay",),
    **dict.fromkeys(("epochs", "epoch", "num_epochs", "n_epochs", "num_train_epochs"), ("trainer.max_epochs",)),
    **dict.fromkeys(("gpus", "num_gpus", "world_size"), ("trainer.devices",)),
    **dict.fromkeys(("gpu", "cuda", "use_gpu", "use_cuda"), ("trainer.accelerator=gpu", "device=cuda")),
    **dict.fromkeys(("cpu", "no_cuda", "no_gpu"), ("trainer.accelerator=cpu", "device=cpu")),
    "device": ("trainer.accelerator",),
    **dict.fromkeys(("amp", "fp16", "mixed_precision"), ("trainer.precision=16-mixed",)),
    "bf16": ("trainer.precision=bf16-mixed",),
    "precision": ("trainer.precision",),
    **dict.fromkeys(("batch", "bs", "batchsize", "b"), ("data.batch_size", "batch_size")),
    **dict.fromkeys(("train_batch_size", "per_device_train_batch_size"), ("data.batch_size",)),
    **dict.fromkeys(("workers", "threads", "j"), ("data.num_workers", "num_workers")),
    **dict.fromkeys(("accum_iter", "gradient_accumulation_steps"), ("trainer.accumulate_grad_batches",)),
    **dict.fromkeys(("clip_grad", "clip_grad_norm", "max_grad_norm"), ("trainer.gradient_clip_val",)),
    **dict.fromkeys(("freeze", "frozen", "freeze_body", "freeze_backbone"), ("finetune=frozen",)),
    **dict.fromkeys(("unfreeze", "fine_tune", "finetuning"), ("finetune=full",)),
    "report_to": ("logger",),
    **{name: (f"logger={name}",) for name in ("wandb", "mlflow")},
    **dict.fromkeys(
        ("root", "data_dir", "data_root", "data_path", "path"),
        ("data.root", "images", "runs"),
    ),
    **dict.fromkeys(("input", "inputs", "source", "folder", "dir"), ("data.root", "images", "runs")),
    **dict.fromkeys(("class_names", "names"), ("classes",)),
    **dict.fromkeys(("img_size", "image_size", "imgsz", "input_size", "crop_size"), ("transforms.size", "size")),
    **dict.fromkeys(("model", "arch", "architecture", "net", "network", "model_name"), ("backbone", "run")),
    **dict.fromkeys(("weights", "weight"), ("backbone.weights",)),
    **dict.fromkeys(("checkpoint", "ckpt", "ckpt_path", "resume_from"), ("resume", "run")),
    **dict.fromkeys(("augmentation", "augment", "aug", "transform"), ("transforms",)),
    **dict.fromkeys(("opt", "optim", "optimiser"), ("optimizer",)),
    **dict.fromkeys(("sched", "lr_scheduler", "lr_schedule"), ("scheduler",)),
    "dataset": ("data",),
    **dict.fromkeys(("val_split", "val_size", "validation_split", "valid_pct"), ("data.split.val_fraction",)),
    **dict.fromkeys(("output_dir", "out_dir", "save_dir", "log_dir"), ("output", "hydra.run.dir")),
    **dict.fromkeys(("out", "output", "run_name", "exp_name"), ("output", "hydra.run.dir")),
    **dict.fromkeys(("sort", "sort_by"), ("metric",)),
    "top_k": ("topk",),
}
# What others call a key that options have which need not be chosen
ALIASES = {
    **dict.fromkeys(("csv_file", "csv_path", "train_csv", "labels", "labels_file", "label_file"), "csv"),
    **dict.fromkeys(("label_col", "label_column", "target_col"), "label"),
    **dict.fromkeys(("image_col", "image_column", "path_col", "filename_col"), "path"),
}
