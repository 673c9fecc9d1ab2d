import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
INIT = (HERE / 'zeo_clone' / '__init__.py').read_text(encoding='utf-8')
VERSION = re.search(r"^__version__ = '(.+)'$", INIT, re.MULTILINE)[1]

setup(
    name='zeo_clone',
    version=VERSION,
    description='Many processes share one ZODB: a server and client for the protocol of classic ZEO',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='The zeo_clone authors',
    license='MIT',
    keywords='zodb zeo database server client',
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Framework :: ZODB',
        'Intended Audience :: Developers',
        'Operating System :: POSIX',
        'Programming Language :: Python :: 3',
        'Topic :: Database',
    ],
    python_requires='>=3.10',
    packages=find_packages(include=['zeo_clone', 'zeo_clone.*']),
    package_data={'zeo_clone': ['*.xml'], 'zeo_clone.monitor': ['*.html']},
    install_requires=[
        'BTrees',
        'persistent',
        'transaction',
        'zc.lockfile',
        'ZConfig',
        'zdaemon',
        'ZODB',
        'zodbpickle',
        'zope.interface',
    ],
    extras_require={
        'examples': ['bottle', 'chess', 'waitress'],  # for what is in examples/
        'metrics': ['prometheus_client'],  # the server's metrics-address
        'plot': ['matplotlib'],  # pictures of cache traces and of benchmarks
        'test': [
            'bottle',  # bottle, chess, waitress: the examples need them
            'chess',
            'gunicorn',          # it and uWSGI fork their workers
            'hypothesis',
            'matplotlib',
            'mypy',
            'prometheus_client',
            'pytest',
            'pytest-xdist',      # several tests at a time
            'pyuwsgi; sys_platform == "linux" and platform_machine == "x86_64"',
            'pytz',              # its time zones are values in states
            'ruff',
            'selenium',          # a browser looks at the server's page
            'setuptools>=70.1',  # builds the wheel that the tests install
            'trustme',           # certificates for tests
            'waitress',
            'zc.zlibstorage',    # wraps clients in tests
            'zope.testing',      # ZODB's own tests, which run against us, need it
        ],
    },
    entry_points={
        'console_scripts': [
            'zeo-clone = zeo_clone.command:main',
            # Classic names, which real ZEO has too.
            'runzeo = zeo_clone.runzeo:main',
            'zeo-nagios = zeo_clone.nagios:main',
            'zeo-status = zeo_clone.status:main',
            'zeoctl = zeo_clone.zeoctl:main',
            'zeopack = zeo_clone.scripts.zeopack:main',
        ],
        'zodburi.resolvers': [
            'zeo-clone = zeo_clone.uri:resolve',
        ],
    },
)
