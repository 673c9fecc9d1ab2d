"""What the forum shows: one function for each page, named after what it is for.

Requests come in by bottle, a small web framework, and HTML goes out.  `worker.Transactions` calls each
function in a transaction and gives it the forum; so a function may be called a second time for the same
request, and does nothing but change objects.  The templates in ``views`` are filled in by bottle: what
stands between ``{{`` and ``}}`` is escaped, so nobody can smuggle HTML into a page.
"""
from __future__ import annotations

import time
from pathlib import Path

import bottle

HERE = Path(__file__).parent
ON_FRONT_PAGE = 30  # stories
LONGEST = {'author': 40, 'title': 120, 'link': 500, 'text': 10_000}  # characters that a form may send

app = bottle.Bottle()


@app.get('/')
def front(forum):
    return page('front', stories=forum.hottest(ON_FRONT_PAGE))


@app.get('/story/<number:int>')
def story(forum, number):
    return page('story', story=story_of(forum, number), error='', fields={})


@app.post('/story/<number:int>/comment')
def comment(forum, number):
    story = story_of(forum, number)
    fields = form_fields('author', 'text')
    error = complaint(fields, needed=('author', 'text'))
    if error:
        return page('story', status=400, story=story, error=error, fields=fields)
    story.add_comment(fields['text'], fields['author'])
    return see(f'/story/{number}')


@app.post('/story/<number:int>/vote')
def vote(forum, number):
    story_of(forum, number).votes.change(1)
    return see('/' if form_fields('back')['back'] == 'front' else f'/story/{number}')


@app.get('/submit')
def submit_form():
    return page('submit', error='', fields={})


@app.post('/submit')
def submit(forum):
    fields = form_fields('author', 'title', 'link', 'text')
    error = complaint(fields, needed=('author', 'title'))
    if error:
        return page('submit', status=400, error=error, fields=fields)
    return see(f'/story/{forum.add_story(**fields).number}')


@app.get('/style.css')
def style():
    return bottle.static_file('style.css', root=HERE)


@app.error(404)
def not_found(error):
    return page('message', title='Not here', text=error.body)


@app.error(503)
def away(error):
    return page('message', title='Not now', text=error.body)


def story_of(forum, number):
    """The story with that number.  Without one, the visitor gets the page for 404."""
    try:
        return forum.stories[number]
    except (KeyError, OverflowError):  # OverflowError: more than the keys of an IOBTree can be
        raise bottle.HTTPError(404, f'There is no story {number}.') from None


def form_fields(*names):
    """What the visitor typed into the form: {name: text}."""
    return {name: bottle.request.forms.getunicode(name, '').strip() for name in names}


def complaint(fields, needed):
    """What is wrong with the fields of a form; empty if nothing is."""
    for name, text in fields.items():
        if not text and name in needed:
            return f'Please fill in the {name}.'
        if len(text) > LONGEST[name]:
            return f'The {name} is too long: at most {LONGEST[name]} characters.'
    link = fields.get('link')
    if link and not link.startswith(('http://', 'https://')):  # a "javascript:" link would run on our page
        return 'The link must begin with http:// or https://'
    return ''


def see(path):
    """Send the browser to another page; reloading that one does not send the form again."""
    return bottle.HTTPResponse(status=303, Location=path)


def page(name, status=None, **values):
    if status is not None:
        bottle.response.status = status
    return bottle.template(f'{name}.html', template_lookup=[str(HERE / 'views')],
                           ago=ago, counted=counted, longest=LONGEST, **values)


def ago(written):
    """How long ago that was, in words."""
    minutes = int(time.time() - written) // 60
    for size, unit in ((24 * 60, 'day'), (60, 'hour'), (1, 'minute')):
        if minutes >= size:
            return f'{counted(minutes // size, unit)} ago'
    return 'just now'


def counted(count, noun):
    return f'{count} {noun}' if count == 1 else f'{count} {noun}s'
