<?php
/**
 * Gives the wiki the accounts that its standard input names, and no password on a command line.
 *
 * Standard input is JSON: { "accounts": [ { "name", "password", "groups": [] } ],
 * "bot": { "name", "app", "password", "grants": [] } }. Afterwards each account exists with that
 * password and is in those groups alone, and the bot's account has that bot password with those grants.
 */
require_once getenv( 'MW_INSTALL_PATH' ) . '/maintenance/Maintenance.php';

use MediaWiki\Auth\AuthManager;
use MediaWiki\MediaWikiServices;

class LabkitAccounts extends Maintenance {
	public function __construct() {
		parent::__construct();
		$this->addDescription( 'Makes the accounts that standard input names.' );
	}

	public function execute() {
		$given = json_decode( stream_get_contents( STDIN ), true, 16, JSON_THROW_ON_ERROR );
		foreach ( $given['accounts'] as $account ) {
			$this->account( $account['name'], $account['password'], $account['groups'] );
		}
		$bot = $given['bot'];
		$this->bot( $bot['name'], $bot['app'], $bot['password'], $bot['grants'] );
	}

	private function account( string $name, string $password, array $groups ): void {
		$services = MediaWikiServices::getInstance();
		$user = $services->getUserFactory()->newFromName( $name );
		if ( !$user->isRegistered() ) {
			$this->require( $services->getAuthManager()->autoCreateUser(
				$user, AuthManager::AUTOCREATE_SOURCE_MAINT, false ) );
			SiteStatsUpdate::factory( [ 'users' => 1 ] )->doUpdate();
		}
		$this->require( $user->changeAuthenticationData( [
			'username' => $user->getName(), 'password' => $password, 'retype' => $password ] ) );
		$user->saveSettings();
		$manager = $services->getUserGroupManager();
		foreach ( array_diff( $manager->getUserGroups( $user ), $groups ) as $group ) {
			$manager->removeUserFromGroup( $user, $group );
		}
		$manager->addUserToMultipleGroups( $user, $groups );
	}

	private function bot( string $name, string $app, string $password, array $grants ): void {
		$user = MediaWikiServices::getInstance()->getUserFactory()->newFromName( $name );
		$known = BotPassword::newFromUser( $user, $app );
		$wanted = BotPassword::newUnsaved(
			[ 'user' => $user, 'appId' => $app, 'grants' => $grants ] );
		$hash = MediaWikiServices::getInstance()->getPasswordFactory()->newFromPlaintext( $password );
		$this->require( $wanted->save( $known ? 'update' : 'insert', $hash ) );
	}

	private function require( StatusValue $status ): void {
		if ( !$status->isGood() ) {
			$this->fatalError( Status::wrap( $status )->getWikiText( false, false, 'en' ) );
		}
	}
}

$maintClass = LabkitAccounts::class;
require_once RUN_MAINTENANCE_IF_MAIN;
