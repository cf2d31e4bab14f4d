// Sphinx's own weights, and a how-to page before the chapters and rooms that say the same words.
var Scorer = {
  score: ([docname, title, anchor, descr, score]) => score + (/^(9[2-9]_|api$)/.test(docname) ? 20 : 0),
  objNameMatch: 11, objPartialMatch: 6, objPrio: {0: 15, 1: 5, 2: -5}, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,
};
