"""A stock gRPC server with the same calls as the guest. Says its port on the first line."""

import sys
from concurrent import futures

import grpc


def fail(request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "there is no such thing")


def handler(call):
    return {
        "/lodge.Echo/Say": grpc.unary_unary_rpc_method_handler(lambda name, _: b"Hello, " + name + b"!"),
        "/lodge.Echo/Count": grpc.unary_stream_rpc_method_handler(
            lambda most, _: (str(n).encode() for n in range(1, int(most) + 1))
        ),
        "/lodge.Echo/Chat": grpc.stream_stream_rpc_method_handler(lambda messages, _: messages),
        "/lodge.Echo/Fail": grpc.unary_unary_rpc_method_handler(fail),
    }.get(call.method)


class Handlers(grpc.GenericRpcHandler):
    def service(self, call):
        return handler(call)


server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers([Handlers()])
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
# Ends with whoever started it.
sys.stdin.read()
server.stop(None)
