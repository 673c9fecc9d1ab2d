// The page's script.  In: status.json of the same server, every few seconds.  It keeps the last five minutes in memory,
// puts texts of clients into the page only as text, and needs nothing from elsewhere.  What is trouble, the server says.
'use strict';
const PAUSE_MS = 1000 * Math.max(0.2, Number(new URLSearchParams(location.search).get('every')) || 2);
const TIMEOUT_MS = 5000, SHORTEST_S = 60, LONGEST_S = 300, KEPT = 200, LATENCY_SAMPLES = 5, W = 300, H = 64;
const GAP_S = 1 + 3 * PAUSE_MS / 1000;  // between two points: nothing was heard meanwhile
const SVG = 'http://www.w3.org/2000/svg';
const COUNTERS = ['loads', 'stores', 'commits', 'aborts', 'conflicts', 'conflicts_resolved', 'invalidations',
                  'verifications', 'verifications_failed', 'timeouts', 'silent'];
const CARDS = [
  {key: 'loads', title: 'Loads per second', show: rate, lines: [['loads']]},
  {key: 'commits', title: 'Commits per second', show: rate, lines: [['commits']]},
  {key: 'clients', title: 'Clients', show: whole, lines: [['clients']]},
  {key: 'waiting', title: 'Queue for the commit lock', show: whole, lines: [['waiting']]},
  {key: 'load', title: 'Time for a load', show: duration, lines: [['load50', 'median'], ['load99', '99 %']]},
  {key: 'commit', title: 'Time for a commit, 95 %', show: duration,
   lines: [['wait95', 'lock'], ['vote95', 'vote'], ['finish95', 'finish']]},
];
const CLIENTS = [['Client', 'text'], ['Label', 'text'], ['Age', 'n'], ['Loads/s', 'n'], ['Commits/s', 'n'], ['From its cache', 'n'],
                 ['Received', 'n'], ['Sent', 'n'], ['Queued', 'n'], ['Transaction', '']];
const HOT = [['Object', ''], ['Class', 'text'], ['Loads', 'n']];
let token = null;  // to be shown by whoever wants to disconnect clients; null: nobody may

// -- texts -----------------------------------------------------------------------------------------
function whole(value) { return value.toLocaleString('en'); }
function rate(value) {
  const digits = value > 0 && value < 10 ? 1 : 0;
  return value.toLocaleString('en', {minimumFractionDigits: digits, maximumFractionDigits: digits});
}
function duration(seconds) {
  const [size, unit] = seconds < 0.001 ? [1e6, 'µs'] : seconds < 1 ? [1e3, 'ms'] : [1, 's'];
  const value = seconds * size;
  return `${value.toLocaleString('en', {maximumFractionDigits: value < 10 ? 1 : 0})} ${unit}`;
}
function age(seconds) {
  const two = number => String(number).padStart(2, '0'), s = Math.floor(seconds);
  const minute = Math.floor(s / 60) % 60, hour = Math.floor(s / 3600) % 24, days = Math.floor(s / 86400);
  if (days) return `${days} d ${hour}:${two(minute)} h`;
  if (hour) return `${hour}:${two(minute)}:${two(s % 60)} h`;
  return minute ? `${minute}:${two(s % 60)} min` : `${s} s`;
}
function bytes(size) {
  let unit = 0;
  for (; size >= 1024 && unit < 3; unit++) size /= 1024;
  return `${unit ? size.toFixed(1) : size} ${['B', 'KB', 'MB', 'GB'][unit]}`;
}
function transactionTime(tid) {  // minutes since 1900, as if all months had 31 days, and 2**-32 minutes
  if (/^0*$/.test(tid)) return 'empty';
  const minutes = parseInt(tid.slice(0, 8), 16), ticks = parseInt(tid.slice(8), 16);
  const days = Math.floor(minutes / 1440), months = Math.floor(days / 31);
  const time = Date.UTC(1900 + Math.floor(months / 12), months % 12, days % 31 + 1, 0, minutes % 1440);
  return 'last transaction ' + new Date(time + ticks / 2 ** 32 * 60000).toISOString().slice(0, 19).replace('T', ' ')
         + ' UTC';
}

// -- the page's elements ---------------------------------------------------------------------------
const byId = id => document.getElementById(id);
function add(parent, tag, kind, text) {
  const found = parent.appendChild(document.createElement(tag));
  if (kind) found.className = kind;
  if (text !== undefined) found.textContent = text;
  return found;
}
function draw(parent, tag, attributes) {
  const found = parent.appendChild(document.createElementNS(SVG, tag));
  for (const name in attributes) found.setAttribute(name, attributes[name]);
  return found;
}

function addTable(parent, kind, name, titles) {
  const scroll = add(parent, 'div', 'scroll'), table = add(scroll, 'table', kind);
  scroll.tabIndex = 0;  // so that keys can move it
  scroll.setAttribute('role', 'group');
  scroll.setAttribute('aria-label', name);
  const caption = add(table, 'caption'), head = add(add(table, 'thead'), 'tr');
  for (const [title, side] of titles) add(head, 'th', side === 'n' ? 'n' : '', title).scope = 'col';
  return [caption, head, add(table, 'tbody')];
}
function addButton(parent, storage, client, name) {
  const button = add(parent, 'button', '', 'disconnect');
  button.type = 'button';
  button.setAttribute('aria-label', `disconnect ${name}`);
  button.addEventListener('click', () => disconnect(storage, client, name));
}
async function disconnect(storage, client, name) {
  if (!confirm(`Disconnect ${name} from storage ${storage}?  A transaction that it has not finished is aborted.`)) return;
  let answer;
  try {
    const response = await fetch('disconnect?' + new URLSearchParams({storage, client}),
                                 {method: 'POST', headers: {'X-Zeo-Token': token}, cache: 'no-store'});
    answer = await response.text();
  } catch (error) {
    answer = `The server does not answer (${error.message})`;
  }
  byId('said').textContent = answer.trim();
}

class Chart {
  constructor(parent, card, storage) {
    this.card = card;
    this.name = `${card.title}, storage ${storage}`;
    this.points = [];
    this.window = SHORTEST_S;  // seconds from left to right
    const box = add(parent, 'div', 'card');
    box.dataset.key = card.key;
    add(box, 'h3', '', card.title);
    const several = card.lines.length > 1, texts = add(box, 'div', several ? 'legend' : 'value');
    this.texts = card.lines.map(([, name], i) => {
      if (!several) return texts;
      const item = add(texts, 'span', `k${i}`, `${name} `);
      return add(item, 'b');
    });
    this.svg = draw(add(box, 'div', 'plot'), 'svg', {viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: 'none',
      role: 'slider', tabindex: 0, 'aria-label': this.name, 'aria-valuemax': 0});
    draw(this.svg, 'line', {x1: 0, x2: W, y1: 1, y2: 1});
    draw(this.svg, 'line', {x1: 0, x2: W, y1: H - 1, y2: H - 1});
    this.area = several ? null : draw(this.svg, 'path', {class: 'area k0'});
    this.paths = card.lines.map((_, i) => draw(this.svg, 'path', {class: `k${i}`}));
    this.mark = draw(this.svg, 'line', {class: 'at', y1: 0, y2: H, visibility: 'hidden'});
    const scale = add(box, 'div', 'scale');
    this.top = add(scale, 'span');
    this.when = add(scale, 'span');
    this.pointed = null;  // a time, in seconds before now
    this.svg.addEventListener('pointermove', event => {
      const frame = this.svg.getBoundingClientRect();
      this.pointed = (1 - (event.clientX - frame.left) / frame.width) * this.window;
      this.tell();
    });
    for (const event of ['pointerleave', 'blur']) {
      this.svg.addEventListener(event, () => { this.pointed = null; this.tell(); });
    }
    this.svg.addEventListener('keydown', event => this.key(event));
  }
  key(event) {
    const last = this.points.length - 1, at = this.points.indexOf(this.nearest());
    const to = {ArrowLeft: at - 1, ArrowRight: at + 1, PageUp: at - 10, PageDown: at + 10, Home: 0, End: last,
                Escape: last}[event.key];
    if (to === undefined) return;
    const point = this.points[Math.max(0, Math.min(last, to))];
    this.pointed = event.key === 'Escape' ? null : this.points[last].time - point.time;
    event.preventDefault();
    this.tell(true);
  }
  show(points) {
    this.points = points;
    const now = points[points.length - 1].time;
    this.window = Math.min(LONGEST_S, Math.max(SHORTEST_S, now - points[0].time));
    const values = points.flatMap(point => this.card.lines.map(([key]) => point[key] ?? 0));
    const top = roundUp(Math.max(...values), this.card.show === whole);
    const y = value => H - 1 - value / top * (H - 4);
    this.card.lines.forEach(([key], i) => {
      let heard = -Infinity;
      const runs = [];
      for (const point of points) {
        if (point[key] === null || point[key] === undefined) { heard = -Infinity; continue; }
        const at = `${this.x(point, now).toFixed(1)} ${y(point[key]).toFixed(1)}`;
        if (point.time - heard <= GAP_S) runs[runs.length - 1].push(at); else runs.push([at]);
        heard = point.time;
      }
      this.paths[i].setAttribute('d', runs.map(run => `M${run.join('L')}${run.length > 1 ? '' : 'h0.01'}`).join(''));
      if (this.area) {
        this.area.setAttribute('d', runs.map(run => `M${run[0].split(' ')[0]} ${H}L${run.join('L')}L` +
                                                    `${run[run.length - 1].split(' ')[0]} ${H}Z`).join(''));
      }
    });
    this.top.textContent = Math.max(...values) > 0 ? `up to ${this.card.show(top)}` : '';
    this.tell();
  }
  x(point, now) { return W - (now - point.time) / this.window * W; }
  nearest() {  // to where somebody points
    const now = this.points[this.points.length - 1].time, distance = other => Math.abs(now - other.time - this.pointed);
    return this.points.reduce((best, other) => distance(other) <= distance(best) ? other : best);
  }
  tell(byKey) {
    const points = this.points, now = points[points.length - 1], point = this.nearest();
    if (this.pointed !== null) {
      const x = this.x(point, now.time);
      this.mark.setAttribute('x1', x);
      this.mark.setAttribute('x2', x);
    }
    this.mark.setAttribute('visibility', this.pointed === null ? 'hidden' : 'visible');
    const texts = this.card.lines.map(([key]) => point[key] ?? null).map(
      value => value === null ? '–' : this.card.show(value));
    texts.forEach((text, i) => { this.texts[i].textContent = text; });
    this.when.textContent = this.pointed === null ? `last ${age(this.window)}`
      : new Date(point.wall).toLocaleTimeString('en-GB');
    if (!byKey && document.activeElement === this.svg) return;  // who listens is not to hear it again and again
    this.svg.setAttribute('aria-valuemin', -Math.round(this.window));
    this.svg.setAttribute('aria-valuenow', -Math.round(this.pointed ?? 0));
    const named = this.card.lines.map(([, name], i) => name ? `${name} ${texts[i]}` : texts[i]).join(', ');
    this.svg.setAttribute('aria-valuetext', this.pointed === null ? named : `${this.when.textContent}: ${named}`);
  }
}

function roundUp(value, isWhole) {
  if (value <= 0) return isWhole ? 4 : 1;
  const ten = 10 ** Math.floor(Math.log10(value));
  const top = [1, 2, 5, 10].map(step => step * ten).find(step => step >= value * 0.999);
  return isWhole ? Math.max(4, top) : top;
}

// -- numbers ---------------------------------------------------------------------------------------
function quantile(part, now, before) {  // of what happened between two statuses; null: nothing did
  const histogram = name => status => status && status.latency ? status.latency[name].counts : null;
  const [name, share] = part, counts = histogram(name)(now), old = histogram(name)(before);
  if (!counts || !old) return null;
  const fresh = counts.map((count, i) => count - old[i]), total = fresh.reduce((a, b) => a + b, 0);
  if (total <= 0) return null;
  const bounds = now.latency.bounds;
  let left = share * total;
  for (let i = 0; i < fresh.length; i++) {
    if (fresh[i] >= left) {
      const low = i ? bounds[i - 1] : 0, high = bounds[Math.min(i, bounds.length - 1)];
      return low + (high - low) * left / fresh[i];
    }
    left -= fresh[i];
  }
  return bounds[bounds.length - 1];
}

class Storage {
  constructor(name) {
    this.name = name;
    this.points = [];
    this.statuses = [];  // [time, status]
    this.wanted = null;  // is it to be open?  Whoever opens and closes it himself is right until that changes
    this.rows = new Map();  // of the table of clients
    this.section = document.createElement('details');
    this.section.className = 'storage';
    this.section.dataset.storage = name;
    const head = add(this.section, 'summary');
    add(head, 'h2', '', `Storage ${name}`);
    this.mark = add(head, 'span', 'mark');
    this.facts = add(head, 'span', 'facts');
    const cards = add(this.section, 'div', 'cards'), more = add(this.section, 'div', 'more');
    this.charts = CARDS.map(card => new Chart(cards, card, name));
    this.lockCard = add(more, 'div', 'card');
    add(this.lockCard, 'h3', '', 'Commit lock');
    this.lock = add(this.lockCard, 'div', 'lock');
    this.hand = add(this.lockCard, 'div');
    this.holder = add(this.lockCard, 'div', 'soft');
    this.queue = add(this.lockCard, 'div', 'soft');
    const counters = add(more, 'div', 'card');
    add(counters, 'h3', '', 'Since the start');
    const list = add(counters, 'div', 'counters');
    this.counters = COUNTERS.map(key => {
      const row = add(list, 'div');
      add(row, 'span', '', key.replaceAll('_', ' '));
      return add(row, 'b');
    });
    const sizes = add(more, 'div', 'card');
    add(sizes, 'h3', '', 'Sizes');
    this.sizes = add(sizes, 'div', 'counters');
    const hot = add(more, 'div', 'card');
    [this.hotCaption, this.hotTitles, this.hot] = addTable(hot, 'hot', `what is loaded most from storage ${name}`, HOT);
    this.conflicts = add(hot, 'div', 'soft');
    this.clients = add(more, 'div', 'card wide');
    [this.caption, this.titles, this.body] = addTable(this.clients, 'clients', `clients of storage ${name}`, CLIENTS);
  }
  update(status, time, troubles) {
    if (this.points.length) {  // a server that was started anew begins anew here as well
      const [last, before] = this.statuses[this.statuses.length - 1];
      if (time <= last || status.uptime < before.uptime) { this.points = []; this.statuses = []; }
    }
    this.statuses.push([time, status]);
    this.statuses = this.statuses.slice(-LATENCY_SAMPLES - 1);
    this.points.push(this.point(status, time));
    this.points = this.points.slice(-KEPT).filter(point => time - point.time <= LONGEST_S);
    this.charts.forEach(chart => chart.show(this.points));
    this.facts.textContent = [`up ${age(status.uptime)}`, transactionTime(status['last-transaction']),
      status.packing === null ? '' : `being packed for ${age(status.packing)}`].filter(Boolean).join(' · ');
    this.mark.textContent = troubles.length ? (isBad(troubles) ? 'ALARM' : 'warning') : '';
    this.mark.className = `mark ${isBad(troubles) ? 'bad' : ''}`;
    this.showLock(status, troubles.filter(({kind}) => kind === 'lock' || kind === 'waiting'));
    const point = this.points[this.points.length - 1];
    COUNTERS.forEach((key, i) => {
      this.counters[i].textContent = whole(status[key]) + (point[key] > 0 ? ` (${rate(point[key])}/s)` : '');
    });
    this.showSizes(status, point, troubles.some(({kind}) => kind === 'disk'));
    this.showHot(status);
    this.showClients(status, troubles.some(({kind}) => kind === 'stalled'));
  }
  open(open) {
    if (open !== this.wanted) this.section.open = this.wanted = open;
  }
  point(status, time) {
    const [then, before] = this.statuses[Math.max(0, this.statuses.length - 2)], old = this.statuses[0][1];
    const perSecond = key => time > then ? (status[key] - before[key]) / (time - then) : null;
    const rates = Object.fromEntries([...COUNTERS, 'received', 'sent'].map(key => [key, perSecond(key)]));
    return {...rates, time, wall: Date.now(), clients: status.connections, waiting: status.waiting,
            load50: quantile(['load', 0.5], status, old), load99: quantile(['load', 0.99], status, old),
            wait95: quantile(['lock_wait', 0.95], status, old), vote95: quantile(['vote', 0.95], status, old),
            finish95: quantile(['finish', 0.95], status, old)};
  }
  showLock(status, troubles) {
    const holder = status.lock_holder, names = status.waiting_clients;
    this.lockCard.className = troubles.length ? `card trouble ${isBad(troubles) ? 'bad' : ''}` : 'card';
    this.lock.className = `lock ${holder ? 'held' : 'free'} ${isBad(troubles) ? 'bad' : ''}`;
    this.lock.textContent = holder ? `held for ${holder.seconds.toFixed(1)} s` : 'free';
    this.holder.textContent = holder
      ? `by ${holder.client}, ${holder.phase}; user ${holder.user || '–'}, ${holder.description || 'no description'}`
      : `${whole(status.active_txns)} transactions under way`;
    const wanted = holder && token ? holder.client : '';
    if (wanted !== (this.hand.dataset.client || '')) {  // a button that somebody is about to press stays
      this.hand.dataset.client = wanted;
      this.hand.replaceChildren();
      if (wanted) addButton(this.hand, this.name, wanted, wanted);
    }
    const more = status.waiting > names.length ? ` and ${status.waiting - names.length} more` : '';
    this.queue.textContent = names.length ? `waiting: ${names.join(', ')}${more}` : 'nobody waits';
  }
  showSizes(status, point, full) {
    const sizes = status.sizes || {disks: []}, speed = value => value > 0 ? ` (${bytes(Math.round(value))}/s)` : '';
    const rows = [['database', sizes.data], ['blobs', sizes.blobs], ['new file of the pack', sizes.pack]].filter(
      ([, size]) => size !== null && size !== undefined).map(([name, size]) => [name, bytes(size)]);
    for (const disk of sizes.disks) {
      rows.push([`free for ${disk.holds}`, `${bytes(disk.free)} of ${bytes(disk.size)}`, full]);
    }
    rows.push(['received', bytes(status.received) + speed(point.received)], ['sent', bytes(status.sent) + speed(point.sent)]);
    this.sizes.replaceChildren(...rows.map(([name, text, loud]) => {
      const row = document.createElement('div');
      row.className = loud ? 'trouble' : '';
      add(row, 'span', '', name);
      add(row, 'b', '', text);
      return row;
    }));
  }
  showHot(status) {
    const {loads, objects} = status.hot;
    this.hotCaption.textContent = loads ? `Loaded most from storage ${this.name}, of the last ${whole(loads)} loads`
                                        : `Nothing has been loaded from storage ${this.name}`;
    this.hotTitles.hidden = !loads;
    this.hot.replaceChildren(...objects.map(([oid, count, kind]) => {
      const row = document.createElement('tr');
      add(row, 'td', '', `0x${oid.replace(/^0+(?=.)/, '')}`);
      add(row, 'td', 'text', kind ?? 'not known yet');
      add(row, 'td', 'n', whole(count));
      return row;
    }));
    const classes = Object.entries(status.conflict_classes).sort(([, a], [, b]) => b - a).slice(0, 10);
    this.conflicts.textContent = classes.length
      ? `Conflicts: ${classes.map(([kind, count]) => `${kind} ${whole(count)}`).join(', ')}` : 'No conflicts';
  }
  perSecond(client, key) {  // of a client, since the last time
    if (this.statuses.length < 2) return '–';
    const [[then, before], [now]] = this.statuses.slice(-2);
    const same = ({address, label, age}) => address === client.address && label === client.label && age <= client.age;
    const old = before.clients.filter(same).reduce((best, other) => best && best.age > other.age ? best : other, null);
    return rate(Math.max(0, client[key] - (old ? old[key] : 0)) / (now - then));
  }
  showClients(status, stalled) {
    const more = status.connections - status.clients.length;
    this.caption.textContent = `Clients of storage ${this.name}: ${whole(status.connections)}` +
                               (more > 0 ? `, the first ${status.clients.length}` : '');
    this.titles.hidden = !status.clients.length;
    const seen = new Map();
    for (const client of status.clients) {
      const count = (seen.get(client.address) || 0) + 1, key = `${client.address} ${client.label} ${count}`;
      seen.set(client.address, count);
      seen.set(key, client);
      if (!this.rows.has(key)) this.rows.set(key, this.newRow(client));
      this.fillRow(this.rows.get(key), client, stalled);
    }
    for (const [key, row] of this.rows) {
      if (!seen.has(key)) { row.remove(); this.rows.delete(key); }
    }
  }
  newRow(client) {
    const row = add(this.body, 'tr');
    CLIENTS.forEach(([, kind]) => add(row, 'td', kind));
    if (token) addButton(add(row, 'td'), this.name, client.address, client.label || client.address);
    return row;
  }
  fillRow(row, client, stalled) {
    row.className = stalled && client.stalled ? 'trouble' : '';
    const asked = (client.hits || 0) + (client.misses || 0);
    const texts = [client.address, client.label, age(client.age), this.perSecond(client, 'loads'),
                   this.perSecond(client, 'commits'), asked ? `${Math.round(100 * client.hits / asked)} %` : '',
                   bytes(client.received), bytes(client.sent),
                   bytes(client.queued) + (client.stalled ? `, unread for ${age(client.stalled)}` : ''),
                   client.read_only ? 'read-only' : client.transaction];
    texts.forEach((text, i) => { row.cells[i].textContent = text; });
  }
}

// -- the server ------------------------------------------------------------------------------------
const storages = new Map();
let heardAt = null, spoken = null;
const isBad = troubles => troubles.some(({bad}) => bad);
const isIdle = status => /^0*$/.test(status['last-transaction']) && !status.connections;
function update(answer) {
  heardAt = new Date();
  token = answer.token;
  byId('name').textContent = `ZODB server at ${answer.address}`;
  byId('facts').textContent = `zeo_clone ${answer.version} · Python ${answer.python} · process ${answer.pid} · loop lag ${duration(answer.lag)}`;
  for (const [name, storage] of storages) {
    if (!(name in answer.storages)) { storage.section.remove(); storages.delete(name); }
  }
  const of = name => answer.troubles.filter(({storage}) => storage === name);
  const names = Object.keys(answer.storages).sort(), idle = names.filter(name => isIdle(answer.storages[name]));
  const order = [...names.filter(name => of(name).length), ...names.filter(name => !of(name).length)];
  order.forEach((name, i) => {
    if (!storages.has(name)) storages.set(name, new Storage(name));
    const storage = storages.get(name);
    if (byId('storages').children[i] !== storage.section) {
      byId('storages').insertBefore(storage.section, byId('storages').children[i]);
    }
    storage.update(answer.storages[name], answer.time, of(name));
    storage.open(of(name).length > 0 || !idle.includes(name) || idle.length === names.length);
  });
  const bad = isBad(answer.troubles), word = bad ? 'alarm' : answer.troubles.length ? 'warning' : 'live';
  tell(bad ? 'bad' : answer.troubles.length ? 'warn' : '', word, '', '', answer.troubles);
}
function tell(kind, word, title, text, troubles) {
  byId('light').className = `light ${kind}`;
  byId('light').textContent = word;
  byId('alarm').className = `alarm ${kind}`;
  byId('alarm').hidden = !title && !troubles.length;
  byId('alarm-title').textContent = title;
  byId('alarm-text').textContent = text;
  byId('troubles').replaceChildren(...troubles.map(trouble => {
    const item = document.createElement('li');
    item.className = trouble.bad ? 'bad' : 'warn';
    const where = trouble.storage === null ? 'server' : `storage ${trouble.storage}`;
    add(item, 'b', '', `${where}: ${trouble.text}`);
    add(item, 'span', '', trouble.advice.charAt(0).toUpperCase() + trouble.advice.slice(1) + '.');
    return item;
  }));
  byId('main').className = title ? 'old' : '';
  document.title = kind ? `${word.toUpperCase()} – ${byId('name').textContent}` : byId('name').textContent;
  const colour = {bad: 'b32626', warn: '8a5600'}[kind] || '2a78d6';
  byId('icon').href = byId('icon').href.replace(/%23[0-9a-f]{6}/, `%23${colour}`);
  const news = [word, ...troubles.map(({kind, storage}) => `${kind} ${storage}`)].join();
  if (news !== spoken) {  // once, although seconds go on to be counted
    if (spoken !== null || word !== 'live') {
      byId('spoken').textContent = [title || word, ...troubles.map(({text}) => text)].join('. ');
    }
    spoken = news;
  }
}
function complain(word, title, reason) {
  const since = heardAt ? ` What is shown below is from ${heardAt.toLocaleTimeString('en-GB')}.` : '';
  const sentence = reason.charAt(0).toUpperCase() + reason.slice(1);
  tell(word === 'starting' ? 'warn' : 'bad', word, title, `${sentence}.${since}`, []);
}
const TITLES = {starting: 'The server is starting', stopping: 'The server is stopping',
                stuck: 'The server does not react'};
async function ask() {
  try {
    const response = await fetch('status.json', {cache: 'no-store', signal: AbortSignal.timeout(TIMEOUT_MS)});
    const answer = await response.json();
    if (response.ok) update(answer);
    else complain(answer.state, TITLES[answer.state] || 'The server does not answer', answer.reason);
  } catch (error) {
    complain('gone', 'The server has gone', `It does not answer (${error.message})`);
  }
  setTimeout(ask, PAUSE_MS);
}
ask();
