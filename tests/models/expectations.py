"""Expected properties of the graphs of backbone families."""

# The smallest backbone of each family, at a size that is quick to compute
IMAGE_SIZES = {
    "resnet20": 16,
    "vgg16": 32,
    "resnet50": 64,
    "resnet50_v2": 32,
    "inception_v3": 75,
    "inception_resnet_v2": 75,
    "xception": 71,
    "mobilenet_025": 64,
    "mobilenet_v2_035": 64,
    "mobilenet_v3_small_075": 64,
    "densenet121": 32,
    "efficientnet_b0": 64,
    "efficientnet_v2_b0": 64,
    "convnext_tiny": 32,
    "nasnet_mobile": 32,
}

# Module of `keras.applications` with the family's `preprocess_input`
MODULES = {
    "vgg16": "vgg16",
    "resnet50": "resnet",
    "resnet50_v2": "resnet_v2",
    "inception_v3": "inception_v3",
    "inception_resnet_v2": "inception_resnet_v2",
    "xception": "xception",
    "mobilenet_025": "mobilenet",
    "mobilenet_v2_035": "mobilenet_v2",
    "mobilenet_v3_small_075": "mobilenet_v3",
    "densenet121": "densenet",
    "efficientnet_b0": "efficientnet",
    "efficientnet_v2_b0": "efficientnet_v2",
    "convnext_tiny": "convnext",
    "nasnet_mobile": "nasnet",
}

# Number of cuts of the backbones, including the input, excluding preprocessing and head
NUM_CUTS = {
    "vgg16": 19,
    "resnet50": 39,
    "inception_v3": 29,
    "inception_resnet_v2": 103,
    "xception": 25,
    "mobilenet_025": 86,
    "mobilenet_v2_035": 74,
    "densenet121": 79,
    "efficientnet_b0": 84,  # with the rescaling that Keras adds for its published weights
    "convnext_tiny": 25,
    "nasnet_mobile": 5,
}

# From each group to its last layer
BOUNDARIES = {
    "resnet20": {
        "stage1": "stage1_block3_out",
        "stage2": "stage2_block3_out",
        "stage3": "stage3_block3_out",
    },
    "vgg16": {f"block{n}": f"block{n}_pool" for n in range(1, 6)},
    "resnet50": {
        "conv1": "pool1_pool",
        "conv2": "conv2_block3_out",
        "conv3": "conv3_block4_out",
        "conv4": "conv4_block6_out",
        "conv5": "conv5_block3_out",
    },
    "mobilenet_025": {
        "group_1": "conv_pw_1_relu",
        "group_2": "conv_pw_3_relu",
        "group_3": "conv_pw_5_relu",
        "group_4": "conv_pw_11_relu",
        "group_5": "conv_pw_13_relu",
    },
    "mobilenet_v2_035": {
        "group_1": "expanded_conv_project_BN",
        "group_2": "block_2_add",
        "group_3": "block_5_add",
        "group_4": "block_12_add",
        "group_5": "out_relu",
    },
    "efficientnet_b0": {
        "group_1": "block1a_project_bn",
        "block2": "block2b_add",
        "block3": "block3b_add",
        "group_4": "block5c_add",
        "group_5": "top_activation",
    },
}
