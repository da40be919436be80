"""Allow-list of TensorFlow operations that may run in the fast loop, or compiled by XLA.

Any operation that is not listed keeps training out of the fast loop, or out of XLA. A missing
operation makes training slower; it never changes the result.
"""

from typing import Any

import tensorflow as tf

# Functions of their inputs, and reads and writes of variables, that XLA computes like TensorFlow
# up to rounding, at least as fast, and that raise no errors which XLA would suppress. Functions
# that they call or branch to are inspected too.
_COMPILED = {
    "structure": """
        Const Placeholder Identity IdentityN NoOp StopGradient PreventGradient
        PartitionedCall StatefulPartitionedCall If StatelessIf
    """,
    "variables": """
        VarHandleOp ReadVariableOp AssignVariableOp AssignAddVariableOp AssignSubVariableOp
        ResourceScatterAdd ResourceScatterSub VariableShape
    """,
    "shapes": """
        Shape ShapeN Size Rank Reshape ExpandDims Squeeze Transpose InvertPermutation Tile Pack
        Unpack ConcatV2 ConcatOffset Slice StridedSlice StridedSliceGrad Split SplitV Pad PadV2 Fill
        Range ReverseV2 BroadcastTo BroadcastArgs BroadcastGradientArgs ZerosLike OnesLike
        DynamicStitch UnsortedSegmentSum OneHot Bitcast
    """,
    "arithmetic": """
        Abs Add AddN AddV2 Cast Ceil Cos Cosh DivNoNan Elu EluGrad Erf Erfc Exp Expm1 Floor FloorDiv
        FloorMod LeakyRelu LeakyReluGrad Log Log1p MulNoNan Maximum Minimum Mul Neg Pow RealDiv
        Reciprocal Relu Relu6 Relu6Grad ReluGrad Round Rsqrt RsqrtGrad Selu SeluGrad Sigmoid
        SigmoidGrad Sign Sin Sinh Softplus SoftplusGrad Softsign SoftsignGrad Sqrt SqrtGrad Square
        SquaredDifference Sub Tan Tanh TanhGrad Xdivy Xlogy
    """,
    "comparisons": """
        BitwiseAnd Equal Greater GreaterEqual IsFinite IsInf IsNan Less LessEqual LogicalAnd
        LogicalNot LogicalOr NotEqual Select SelectV2
    """,
    "sums and products": """
        All Any ArgMax ArgMin BatchMatMulV2 BiasAdd BiasAddGrad Cumsum Einsum L2Loss LogSoftmax
        MatMul Max Mean Min Prod Softmax SoftmaxCrossEntropyWithLogits Sum
    """,
}
# Other functions of their inputs, which are left to TensorFlow.
_NOT_COMPILED = {
    "slower in XLA on a CPU": """
        AvgPool AvgPool3D AvgPool3DGrad AvgPoolGrad MaxPool MaxPool3D MaxPool3DGrad MaxPoolGrad
        Conv2D Conv2DBackpropFilter Conv2DBackpropInput Conv3D Conv3DBackpropFilterV2
        Conv3DBackpropInputV2 DepthwiseConv2dNative DepthwiseConv2dNativeBackpropFilter
        DepthwiseConv2dNativeBackpropInput FusedBatchNormV3 FusedBatchNormGradV3
        While StatelessWhile EmptyTensorList TensorListFromTensor TensorListGetItem
        TensorListPopBack TensorListPushBack TensorListReserve TensorListSetItem TensorListStack
        TensorListElementShape TensorListLength InTopKV2 TopKV2
    """,
    "with errors that XLA leaves out": "GatherV2 GatherNd ResourceGather",
    "with other random numbers": """
        StatelessRandomGetAlg StatelessRandomGetKeyCounter StatelessRandomNormalV2
        StatelessRandomUniformV2 StatelessRandomUniformIntV2 StatelessTruncatedNormalV2
    """,
}
_MAY_BE_COMPILED = frozenset(" ".join(_COMPILED.values()).split())
_PURE = _MAY_BE_COMPILED | frozenset(" ".join(_NOT_COMPILED.values()).split())


def are_pure(function: Any) -> bool:
    """Whether a traced function uses only its inputs and variables, and changes only variables.

    Such a function has the same effect when it is traced again or inside a loop.
    """
    return all(node.op in _PURE for node in _nodes(function))


def may_be_compiled(function: Any) -> bool:
    """Whether XLA computes a traced function like TensorFlow, up to rounding."""
    return all(
        (node.op in _MAY_BE_COMPILED or _is_of_shapes(node)) and not _is_of_text(node)
        for node in _nodes(function)
    )


def _is_of_shapes(node: Any) -> bool:
    # In gathers from weights, as in an embedding, XLA does not report indices out of range.
    return node.op == "GatherV2" and not tf.as_dtype(node.attr["Tparams"].type).is_floating


def _is_of_text(node: Any) -> bool:
    return any(of.type == tf.string.as_datatype_enum for of in node.attr.values())


def _nodes(function: Any) -> list[Any]:
    """The nodes of a traced function's graph and of the functions that it calls."""
    graph = function.graph.as_graph_def()
    return [*graph.node, *(node for of in graph.library.function for node in of.node_def)]
