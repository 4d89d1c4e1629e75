"""The words of a study in English."""

ENGLISH = {
    # -- networks and studies
    "kind.plain": "plain",
    "kind.residual": "residual",
    "network": "{kind}-{depth}",
    "network.seed": "{network} seed {seed}",
    "title.both": "Plain versus residual networks: {dataset}",
    "title.plain": "Plain networks: {dataset}",
    "title.residual": "Residual networks: {dataset}",
    "epochs.one": "{count} epoch",
    "epochs.many": "{count} epochs",
    "seeds.one": "one seed",
    "seeds.mean": "mean of {counts} seeds",
    "and": " and ",
    "cut short": "{network} ({done} of {epochs} epochs)",
    "not started": "{network} (not started)",
    "report": "Report: {path}",
    # -- what the numbers show
    "nothing": "No run has finished yet, so there is nothing to compare.",
    "alone": (
        "{network} ends with {train}% final training error and {test}% final test error ({seeds})."
    ),
    "comparison": (
        "Plain-{depth} ends with {plain}% final training error and residual-{depth} with "
        "{residual}%: with the same recipe, {verdict} ({note})."
    ),
    "worse": "the plain network trains {gap} points worse",
    "better": "the plain network trains {gap} points better",
    "equal": "both train equally well to a tenth of a point",
    "apart": "no overlap between the kinds",
    "overlap": "the kinds' ranges overlap",
    "trend.first": "The final training error of {kind} networks {moves}",
    "trend.next": "that of {kind} networks {moves}",
    "trend.same": "is {after}% both at depth {first} and at depth {last}",
    "trend.rises": "rises from {before}% at depth {first} to {after}% at depth {last}",
    "trend.falls": "falls from {before}% at depth {first} to {after}% at depth {last}",
    # -- the table: headings in lines
    "column.depth": "depth",
    "column.kind": "kind",
    "column.parameters": "parameters",
    "column.train_error": "final\ntraining\nerror %",
    "column.test_error": "final\ntest\nerror %",
    "column.train_loss": "final\ntraining\nloss",
    "column.seconds": "seconds",
    "column.multiply_adds": "multiply-adds\nper image",
    "table.final": (
        "Final: measured after the last epoch, in evaluation mode. The running errors of the "
        "epochs are counted in training mode."
    ),
    "table.spread": "Errors: mean ± standard deviation over the finished seeds; the rest: means.",
    "table.unfinished": "Without a final result: {names}.",
    # -- the figures
    "plot.networks": "{kind} networks",
    "plot.epoch": "epoch",
    "plot.depth": "depth {depth}",
    "plot.protocol": "{name} protocol, {epochs}, {seeds}",
    "plot.images": "{dataset}, {count:,} training images",
    "plot.seeds": "{count} seeds (mean and range)",
    "curves.title": "Running training error and test error by epoch",
    "curves.y": "running training error, test error (%)",
    "curves.train": "training (running)",
    "curves.test": "test",
    "curves.stopped": "run cut short",
    "curves.cut": "axis cut at {top:g}%",
    "depth.title": "Final error against depth",
    "depth.train": "Final training error",
    "depth.test": "Final test error",
    "depth.x": "depth (layers with weights)",
    "depth.y": "final error (%), log scale above 1%",
    "norms.title": "Gradient norm of every layer",
    "norms.start": "{kind} networks, start of training",
    "norms.end": "{kind} networks, end of training",
    "norms.x": "position of the layer: 0 = first convolution, 1 = last",
    "norms.y": "‖∂loss/∂weight‖, log scale",
    "norms.none": "no run measured",
    # -- what is written below the figures
    "figure": "Figure {number}.",
    "alternative.curves": (
        "Line charts of running training error and test error by epoch, one panel per kind"
    ),
    "alternative.error_by_depth": "Line charts of final training and test error against depth",
    "alternative.gradient_norms": (
        "Line charts of the gradient norm of each layer at start and end of training"
    ),
    "caption.curves": (
        "Running training error (dashed) and test error (solid) by epoch, as in the paper's Fig. "
        "6; the deeper the network, the darker its line. The running training error is counted in "
        "the epoch, in training mode, each batch before its own step. It can end far from the "
        "final training error of the table and of Figure 2, which is measured in evaluation mode. "
        "Test errors are measured after each epoch, in evaluation mode."
    ),
    "caption.seeds": "Lines are means over {count} seeds, bands their range.",
    "caption.depth": (
        "Final training and test error against depth. The scale is linear up to 1% and "
        "logarithmic above, so that both 0% and 90% can be read."
    ),
    "caption.worse": (
        "The deepest {kind} network trains {points:.1f} points worse than the best shallower one."
    ),
    "caption.better": (
        "The deepest {kind} network trains {points:.1f} points better than the best shallower one."
    ),
    "caption.equal": "The deepest {kind} network trains as well as the best shallower one.",
    "caption.norms": (
        "Norm of the loss gradient with respect to the weight of each convolution, from the first "
        "to the last, at the start and at the end of training."
    ),
    "caption.ratio": "{ratio} in {network}",
    "caption.ratios": (
        "At the start, the norm of the first layer over that of the last is {ratios}: above 1, "
        "gradients grow on their way back; far below 1, they vanish."
    ),
    # -- the page
    "page.unfinished": (
        "<strong>Not every run has finished.</strong> Without a final result: {names}. They are "
        "missing from the final numbers; curves of runs that were cut short end in a cross."
    ),
    "page.numbers": "Final numbers",
    "page.figures": "Figures",
    "page.how": "How to read these figures",
    "page.recipe": "Recipe",
    "page.one_recipe": (
        "Every network was trained with this recipe, whatever its kind and depth. {description}"
    ),
    "page.environment": "Environment",
    "page.command": "Command:",
    "page.files": (
        "Every epoch of every run is in <code>results.csv</code>, everything above in "
        "<code>results.json</code>, both next to this file."
    ),
    "page.one_seed": "One seed.",
    "page.spread": (
        "Errors are mean ± standard deviation over the finished seeds, the other columns means."
    ),
    "page.final": (
        "Final: measured after the last epoch, with the networks in evaluation mode, over all "
        "{train_size:,} training and {test_size:,} test images: one image is {train_image} and "
        "{test_image} points."
    ),
    "page.degradation": (
        "<strong>Look at the final training error first.</strong> A plain network is the residual "
        "network with its shortcuts taken out: the same layers and the same recipe. A deeper plain "
        "network can represent whatever a shallower one can, since its extra layers could pass "
        "their input on unchanged; so if it ends with a <em>higher final training error</em>, it "
        "did not overfit (that would be a low training error and a high test error): the optimiser "
        "failed to find a solution that exists. He et al. "
        '(<a href="https://arxiv.org/abs/1512.03385">2015, arXiv:1512.03385</a>, Sec. 4.2 and '
        "Fig. 6) call this degradation. With shortcuts it goes away. {degradation}"
    ),
    "page.gradients": (
        "<strong>Then look at the gradients, with care.</strong> The usual suspect is the "
        "vanishing gradient, but the paper argues against it: with batch normalisation the signals "
        "of its plain networks keep healthy norms forward and backward, and three times as many "
        "iterations did not cure them. So read Figure 3 beside Figure 2 and not in its place; a "
        "gradient norm far from that of the other layers tells of a hard start, not by itself of a "
        "bad end. And mind the size of this study: {train_size:,} training images and {epochs} can "
        "show that one kind of network trains under this recipe where the other does not. They "
        "cannot show that the plain network would never get there with a longer schedule or a "
        "recipe of its own, test errors on {test_size:,} images move in steps of {test_image} "
        "points, and {luck}"
    ),
    "page.luck": "with one seed there is no telling how much of a difference is luck.",
    "page.some_luck": (
        "{count} seeds show the size of the spread but are too few for fine differences."
    ),
    "degraded.unknown": "This study has too few finished plain networks to show it.",
    "degraded.clear": (
        "It is in these results: the deepest plain network ends {points:.1f} points of final "
        "training error above the best shallower one."
    ),
    "degraded.hardly": (
        "These results hardly show it: the deepest plain network ends {points:.1f} points of final "
        "training error above the best shallower one, which may be chance."
    ),
    "degraded.no": (
        "It is not in these results: the deepest plain network trains no worse than the best "
        "shallower one. Deeper networks or harder data would be needed."
    ),
    # -- recipe and environment: names of what is in results.json
    "recipe.dataset": "data set",
    "recipe.images": "images",
    "recipe.sizes": "{train:,} for training, {test:,} for testing",
    "recipe.shape": "image shape",
    "recipe.depths": "depths",
    "recipe.shortcut": "shortcut",
    "recipe.option": "option {option} (residual networks only)",
    "recipe.seeds": "seeds",
    "recipe.name": "protocol",
    "recipe.epochs": "epochs",
    "recipe.batch_size": "batch size",
    "recipe.lr": "learning rate",
    "recipe.momentum": "momentum",
    "recipe.weight_decay": "weight decay",
    "recipe.schedule": "schedule",
    "recipe.warmup_epochs": "warm-up epochs",
    "recipe.warmup_rule": "warmup rule",
    "recipe.normalize": "normalize",
    "recipe.augment": "augmentation",
    "recipe.optimizer": "optimiser",
    "recipe.label_smoothing": "label smoothing",
    "about.quick": (
        "SGD with momentum; the learning rate rises linearly during the warm-up and then "
        "falls to zero along a cosine; no augmentation."
    ),
    "about.paper": (
        "He et al. 2015, Sec. 4.2: SGD with momentum, learning rate 0.1 divided by 10 at 1/2 "
        "and 3/4 of the training (32k and 48k of 64k iterations on CIFAR-10), 4 pixels of "
        "padding with random crops and flips; from 110 layers on 0.01 until the training "
        "error is below 80 %."
    ),
    "environment.created": "created",
    "environment.platform": "platform",
    "environment.threads": "threads",
    "environment.ranks": "processes",
    "environment.device": "device",
    "unknown": "unknown",
}
