// The API key of this server: for this tab only, or kept in this browser where its owner asks for that.
// Nothing else reads or writes it; it leaves the page only as the Authorization header of requests to this server.

const NAME = "fast-inference.api-key";

let keyOfPage = ""; // where a browser keeps nothing

/** @returns {string} the key, empty where there is none */
export function apiKey() {
  return read(() => sessionStorage) || read(() => localStorage) || keyOfPage;
}

/** @returns {boolean} whether the key outlives this tab */
export function isKeptForLong() {
  return Boolean(read(() => localStorage));
}

/**
 * @param {string} key empty to forget it
 * @param {boolean} forLong keep it when the tab is closed
 */
export function setApiKey(key, forLong) {
  keyOfPage = key;
  try {
    sessionStorage.removeItem(NAME);
    localStorage.removeItem(NAME);
    if (key) (forLong ? localStorage : sessionStorage).setItem(NAME, key);
  } catch {
    // a browser that keeps nothing for this page: the key counts until it is closed
  }
}

function read(storage) {
  try {
    return storage().getItem(NAME) ?? "";
  } catch {
    return ""; // a browser that keeps nothing for this page
  }
}
