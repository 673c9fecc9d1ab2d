"""A Python prompt in a process of its own: the client side of tests with several processes.

In: one JSON request per line on stdin, ``{"source": "..."}``; out: one JSON reply per line on stdout;
the log and uncaught errors go to stderr.

    python console.py [PATH]        # PATH goes to the front of sys.path

The source is executed in one lasting namespace, as at the interactive prompt.  If it ends in an
expression, the reply is ``{"value": repr}``, else ``{"value": "None"}``.  If it raises::

    {"error": "module.Class", "arguments": repr of .args, "attributes": repr of .__dict__,
     "message": str, "bases": ["module.Class", ...], "traceback": str}

``{"forget": true}`` closes what `forget` names and empties the namespace.  The process ends when stdin
closes.  A request that takes longer than LIMIT_S ends the process, with all stacks on stderr.
"""
from __future__ import annotations

import ast
import faulthandler
import json
import logging
import sys
import traceback

LIMIT_S = 90
CLOSED_IN_ORDER = ('conn', 'db', 'storage')


def run(source, namespace):
    """Execute `source` in `namespace`; the value of a final expression, else None."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, '<test>', 'exec'), namespace)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), '<test>', 'eval'), namespace)


def forget(namespace):
    """End the transaction, close connection, database and storage, empty the namespace."""
    import transaction
    transaction.abort()
    for name in CLOSED_IN_ORDER:
        if name in namespace:
            namespace[name].close()
    namespace.clear()


def dotted(cls):
    return f'{cls.__module__}.{cls.__qualname__}'


def describe(error):
    return {
        'error': dotted(type(error)),
        'arguments': repr(error.args),
        'attributes': repr(vars(error)),
        'message': str(error),
        'traceback': ''.join(traceback.format_exception(error)),
        'bases': [dotted(base) for base in type(error).__mro__],
    }


def answer(request, namespace):
    try:
        if 'forget' in request:
            return {'value': repr(forget(namespace))}
        return {'value': repr(run(request['source'], namespace))}
    except Exception as error:
        return describe(error)


def main(path=None):
    if path:
        sys.path.insert(0, path)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    namespace = {}
    for line in sys.stdin:
        faulthandler.dump_traceback_later(LIMIT_S, exit=True)
        reply = answer(json.loads(line), namespace)
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(reply), flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
