"""Style and script of a page: colour schemes, narrow screens, the panel that a point or a button opens. No library but plotly's."""

STYLE = """
:root{--ink:#1c1f24;--soft:#5b616b;--line:#d9dce1;--paper:#fff;--raised:#f5f6f8;--accent:#0072b2}
@media (prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#a6acb6;--line:#3b4048;--paper:#16181c;--raised:#22252b;--accent:#56b4e9}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:1500px;padding:20px;color:var(--ink);background:var(--paper)}
h1{font-size:22px;margin:0 0 4px}h2{font-size:17px;margin:26px 0 4px}p{margin:4px 0;max-width:80ch}a{color:var(--accent)}
.lead{font-size:17px}.soft{color:var(--soft);font-size:13px}
.grid{display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr))}.grid>div{min-width:0}
.wide{overflow-x:auto;margin:8px 0;border:1px solid var(--line);border-radius:6px}.wide:focus-visible{outline:2px solid var(--accent)}
table{border-collapse:collapse;font-size:13px;width:100%}th{background:var(--raised);font-weight:600}
th,td{border-bottom:1px solid var(--line);padding:4px 10px;text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
th:first-child,td:first-child{text-align:left}tr.mark{font-weight:600}tbody tr:last-child td{border-bottom:0}
button{font:inherit;color:var(--accent);background:none;border:1px solid var(--line);border-radius:5px;padding:1px 8px;cursor:pointer}
button:focus-visible{outline:2px solid var(--accent);outline-offset:1px}
#panel{position:fixed;top:0;right:0;bottom:0;width:min(440px,100%);overflow:auto;padding:16px 18px;background:var(--raised);
border-left:1px solid var(--line);box-shadow:-6px 0 24px #0004;z-index:9}#panel[hidden]{display:none}
#panel h2{margin:0 40px 6px 0;outline:none}#panel .close{position:absolute;top:14px;right:14px}
#panel pre{margin:4px 0;padding:8px;background:var(--paper);border:1px solid var(--line);border-radius:5px;white-space:pre-wrap;
overflow-wrap:anywhere}
#panel td{white-space:normal;overflow-wrap:anywhere}#panel th,#panel td{padding:4px 6px}
#panel dl{display:grid;grid-template-columns:auto 1fr;gap:2px 12px}
#panel dt{color:var(--soft)}#panel dd{margin:0}
@media (max-width:600px){body{padding:12px}h1{font-size:19px}.lead{font-size:16px}}
@media print{#panel{display:none}}
"""

PANEL = (
    "<aside id='panel' role='dialog' aria-labelledby='panel-title' hidden><button class='close' aria-label='Close'>&times;</button>"
    "<h2 id='panel-title' tabindex='-1'></h2><div id='panel-body'></div></aside>"
)

SCRIPT = """
(() => {
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const plots = [...document.querySelectorAll('.plotly-graph-div')];
  const paint = () => {
    const style = getComputedStyle(document.documentElement), ink = style.getPropertyValue('--ink').trim();
    const narrow = innerWidth < 600;
    for (const plot of plots) {
      const change = {'font.color': ink, 'font.size': narrow ? 11 : 12, 'modebar.color': style.getPropertyValue('--soft').trim()};
      for (const key of Object.keys(plot.layout)) {
        if (/^[xy]axis/.test(key)) change[key + '.gridcolor'] = style.getPropertyValue('--line').trim();
        if (/^[xy]axis/.test(key)) change[key + '.zerolinecolor'] = style.getPropertyValue('--line').trim();
      }
      if (narrow) { change['margin.l'] = 48; change['margin.r'] = 8; }
      Plotly.relayout(plot, change);
    }
  };
  paint();
  dark.addEventListener('change', paint);
  const panel = document.getElementById('panel'), data = document.getElementById('policies');
  if (!panel || !data) return;
  const {specs, layers, policies} = JSON.parse(data.textContent);
  let opener = null;
  const make = (tag, text, parent) => {
    const element = document.createElement(tag);
    if (text) element.textContent = text;
    if (parent) parent.append(element);
    return element;
  };
  const close = () => { panel.hidden = true; if (opener) opener.focus(); };
  const open = (key, from) => {
    const policy = policies[key];
    if (!policy) return;
    opener = from;
    document.getElementById('panel-title').textContent = policy.title;
    const body = document.getElementById('panel-body');
    body.replaceChildren();
    make('p', policy.words, body);
    const figures = make('dl', '', body);
    for (const [name, text] of policy.figures) { make('dt', name, figures); make('dd', text, figures); }
    for (const [about, command] of policy.commands) {
      const line = make('p', about + ' ', body), button = make('button', 'copy', line), code = make('pre', command, body);
      button.setAttribute('aria-label', 'Copy: ' + command);
      button.onclick = async () => {
        try { await navigator.clipboard.writeText(command); button.textContent = 'copied'; }
        catch { getSelection().selectAllChildren(code); button.textContent = 'selected: press Ctrl-C'; }
      };
    }
    if (policy.run) {
      const line = make('p', '', body), link = make('a', 'the sweep in MLflow', line);
      const served = document.baseURI.match(/^(?:blob:)?(https?:[/][/][^/]+)/);  // by MLflow, in a frame of its own
      link.href = (served ? served[1] : 'http://127.0.0.1:5000') + '/#/runs/' + encodeURIComponent(policy.run);
      link.target = '_blank';
      link.rel = 'noopener';
      if (!served) make('span', ' (while `bitfront ui` runs)', line).className = 'soft';
    }
    const table = make('table', '', body), head = make('tr', '', make('thead', '', table)), rows = make('tbody', '', table);
    for (const title of ['layer', 'weight', 'activation']) make('th', title, head).scope = 'col';
    policy.codes.forEach(([layer, weight, activation]) => {
      const row = make('tr', '', rows);
      for (const text of [layers[layer], specs[weight], specs[activation]]) {
        const cell = make('td', '', row);  // lines may break behind a sign, not within a word
        for (const part of text.split(/(?<=[.:_])/)) cell.append(part, document.createElement('wbr'));
      }
    });
    panel.hidden = false;
    document.getElementById('panel-title').focus();
  };
  for (const plot of plots) plot.on('plotly_click', event => open(String(event.points[0].customdata), null));
  for (const button of document.querySelectorAll('button[data-policy]')) button.onclick = () => open(button.dataset.policy, button);
  panel.querySelector('.close').onclick = close;
  addEventListener('keydown', event => { if (event.key === 'Escape' && !panel.hidden) close(); });
})();
"""
