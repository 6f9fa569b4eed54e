// What the page check looks for in a page. Every function returns a list of findings.
(() => {
  const short = text => text.trim().replace(/\s+/g, ' ').slice(0, 90);
  const name = node => node.tagName.toLowerCase() + (node.className ? '.' + String(node.className).split(' ')[0] : '')
    + ' ' + short(node.textContent);
  const shown = node => node.getClientRects().length > 0;
  const scrolls = node => {  // whether a reader can scroll to it, in a box of its own
    for (let up = node; up && up.tagName !== 'ARTICLE'; up = up.parentElement)
      if (['auto', 'scroll'].includes(getComputedStyle(up).overflowX)) return true;
    return false;
  };

  const ready = async () => {
    const formulae = document.querySelectorAll('.math');
    if (formulae.length && !window.MathJax?.startup?.promise) return ['MathJax did not load'];
    if (formulae.length) await MathJax.startup.promise;
    return [];
  };

  // axe weighs every coloured word of every box of code; a dozen boxes stand for the rest, which are coloured alike.
  const sample = () => {
    [...document.querySelectorAll('article .highlight')].slice(12).forEach(box => box.setAttribute('data-unweighed', ''));
    return [];
  };

  const unfold = () => { for (const fold of document.querySelectorAll('article details')) fold.open = true; return []; };

  const formulae = () => {
    const found = [];
    for (const node of document.querySelectorAll('mjx-merror, [data-mjx-error], .MathJax_Error'))
      if (!node.parentElement.closest('mjx-merror, [data-mjx-error]'))
        found.push('TeX error: ' + (node.getAttribute('data-mjx-error') || node.title || short(node.textContent))
          + ' in: ' + short(node.closest('.math')?.textContent ?? ''));
    for (const node of document.querySelectorAll('.math'))
      if (!node.querySelector('mjx-container')) found.push('formula not typeset: ' + short(node.textContent));
    return found;
  };

  const text = () => {
    const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const node = walker.currentNode;
      if (node.parentElement.closest('code, pre, script, style, noscript, template, textarea, mjx-container')) continue;
      if (/\$|\\[()\[\]]|\\begin\{|\\[a-zA-Z]{2,}/.test(node.data)) found.push('raw TeX in the text: ' + short(node.data));
      if (/(^|\s)\{[a-z:]+\}`|^:{3,}/m.test(node.data)) found.push('raw MyST in the text: ' + short(node.data));
    }
    return found;
  };

  const pictures = async () => {
    const found = [];
    for (const image of document.images) {
      image.loading = 'eager';
      if (!image.complete)
        await Promise.race([new Promise(done => { image.onload = image.onerror = done; }),
                            new Promise(done => setTimeout(done, 5000))]);
      if (!image.naturalWidth) found.push('broken picture: ' + image.getAttribute('src'));
      if (image.closest('article') && !image.alt.trim()) found.push('picture without alt text: ' + image.getAttribute('src'));
    }
    return found;
  };

  const links = () => [...document.querySelectorAll('summary a[href]')].map(a => 'link inside a summary: ' + name(a));

  // The whole page must not be wider than its window.
  const wide = () => {
    const page = document.scrollingElement;
    if (page.scrollWidth <= innerWidth + 1) return [];
    const out = [...document.querySelectorAll('article *')].find(
      node => node.getBoundingClientRect().right > innerWidth + 1 && !scrolls(node));
    return [`${page.scrollWidth} pixels wide in a window of ${innerWidth}: ${out ? name(out) : 'outside the article'}`];
  };

  // A formula in a line of text must end where its column ends, or scroll.
  const cut = () => [...document.querySelectorAll('article span.math > mjx-container')].filter(shown).filter(node => {
    let column = node.parentElement;
    while (getComputedStyle(column).display.startsWith('inline')) column = column.parentElement;
    return node.getBoundingClientRect().right > column.getBoundingClientRect().right + 1 && !scrolls(node);
  }).map(node => `inline formula cut at ${innerWidth} pixels: ` + short(node.textContent));

  // Boxes of code that are narrower than their longest line.
  const clipped = () => [...document.querySelectorAll('article .highlight pre')]
    .filter(pre => shown(pre) && !pre.closest('.cell_output') && pre.scrollWidth > pre.clientWidth + 1)
    .map(pre => 'code line clipped: ' + pre.textContent.split('\n').reduce((a, b) => (b.length > a.length ? b : a)).trim());

  // On paper: dark words on a white ground, and no side bars.
  const paper = () => {
    const dark = rgb => (rgb.match(/[\d.]+/g) ?? []).slice(0, 3).every(value => value < 110);
    const words = getComputedStyle(document.querySelector('article p, article h1') ?? document.body).color;
    const bars = [...document.querySelectorAll('.bd-sidebar-primary, .bd-sidebar-secondary')].filter(shown);
    return [...(dark(words) ? [] : ['words in ' + words]), ...bars.map(bar => 'side bar: ' + name(bar))];
  };

  window.look = { ready, sample, unfold, formulae, text, pictures, links, wide, cut, clipped, paper };
})();
